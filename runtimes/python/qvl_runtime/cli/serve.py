"""The command `serve`: answers requests of OpenAI's clients."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from ..common.extras import install_fix
from ..common.standard_streams import say
from ..errors import InstallError, PromptError
from .command import Command
from .number_types import NumberRange
from .options import (
    bundle_argument,
    device_option,
    file_path,
    positive,
    prune_option,
    ray_option,
    threads_option,
    verbose,
)

EXAMPLES = (
    "serve bundle",
    "serve bundle --parallel 4 --port 9000",
    "serve bundle --host 0.0.0.0 --api-key SECRET --max-pages 8",
)
KEY_VARIABLE = "QVL_API_KEY"


def _count(value: object) -> int:
    """Parses a count that may be zero."""
    text = str(value)
    if not text.isdecimal() or len(text) > 9:
        raise click.BadParameter(f"{text[:40]!r} is not a whole number of at least 0")
    return int(text)


def _replicas(value: object) -> tuple[int, int]:
    """Parses a number of replicas, or a range."""
    found = re.fullmatch(r"([1-9]\d{0,4})(?:-([1-9]\d{0,4}))?", str(value))
    least, most = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 0 < least <= most:
        raise click.BadParameter(f"{str(value)[:40]!r} is not a number such as 2 or a range such as 1-4")
    return least, most


@click.command(cls=Command, examples=EXAMPLES)
@bundle_argument
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Address to listen at.")
@click.option("--port", type=_count, default=8080, show_default=True, metavar="N",
              help="Port to listen at; 0 takes a free one.")  # fmt: skip
@click.option("--model-name", metavar="NAME", help="Name that requests give (default: that of the directory).")
@click.option("--parallel", type=positive, default=1, show_default=True, metavar="N",
              help="Answers at the same time; they share the weights.")  # fmt: skip
@click.option("--queue", "waiting", type=_count, default=32, show_default=True, metavar="N",
              help="Requests that may wait; further ones are refused with status 429.")  # fmt: skip
@click.option("--timeout", type=NumberRange(min=0.001, max=86400), default=600.0, show_default=True,
              metavar="SECONDS", help="Time of a request, waiting included.")  # fmt: skip
@click.option("--api-key", envvar=KEY_VARIABLE, metavar="KEY",
              help=f"Key that requests must have, better given as {KEY_VARIABLE}.")  # fmt: skip
@click.option("--allowed-host", "allowed_hosts", multiple=True, metavar="NAME",
              help="Name accepted in the Host header besides those of this machine; may be repeated.")  # fmt: skip
@click.option("--cors-origin", "cors_origins", multiple=True, metavar="ORIGIN",
              help="Site whose pages may use the server, such as https://example.org; may be repeated.")  # fmt: skip
@click.option("--allow-urls", is_flag=True, help="Fetch http(s) URLs of images and videos, from public addresses only.")
@click.option("--media-root", type=file_path, metavar="DIRECTORY",
              help="Let requests name files below this directory.")  # fmt: skip
@click.option("--max-pages", type=positive, default=16, show_default=True, metavar="N",
              help="Pages and images of a request.")  # fmt: skip
@click.option("--max-body", type=positive, default=64, show_default=True, metavar="MIB",
              help="Size of the body of a request.")  # fmt: skip
@click.option("--log-content", is_flag=True, help="Write the texts of requests to the log.")
@ray_option
@click.option("--replicas", type=_replicas, default="1", show_default=True, metavar="N|MIN-MAX",
              help="With --ray: models on the cluster, whose number Ray scales within a range.")  # fmt: skip
@prune_option
@threads_option
@device_option
@verbose
def serve(
    bundle: Path, host: str, port: int, prune: Any, threads: int | None, device: str | None, api_key: str | None,
    allowed_hosts: tuple[str, ...], media_root: Path | None, model_name: str | None, max_body: int, ray: str | None,
    replicas: tuple[int, int], **settings: Any,
) -> None:  # fmt: skip
    """Serve BUNDLE over HTTP as OpenAI's chat interface (POST /v1/chat/completions).

    One JSON line per request goes to standard error. SIGTERM or Ctrl-C ends the server when what runs is finished.
    """
    try:
        from ..serve.server import ServeOptions, create_app, is_loopback, listen
        from ..serve.server import serve as run
    except ImportError as error:
        raise InstallError(f"serve needs {error.name}", fix=install_fix("serve")) from error
    from ..model import load

    if media_root is not None and not media_root.is_dir():
        raise PromptError("is not a directory", where=media_root)
    if api_key == "":
        raise PromptError("the API key is empty")
    local = is_loopback(host)
    options = ServeOptions(
        model_name=model_name or bundle.resolve().name,
        api_key=api_key,
        allowed_hosts=allowed_hosts if local or allowed_hosts else None,
        media_root=media_root,
        max_body_bytes=max_body << 20,
        **settings,
    )
    if ray is not None:
        _serve_on_cluster(ray, replicas, (bundle, options, threads, prune, device), host, port)
        return
    if replicas != (1, 1):
        raise PromptError("--replicas needs --ray", fix="--parallel answers several requests on this machine")
    with listen(host, port) as listening:
        app = create_app(load(bundle, threads, prune, device), options)
        if not local and api_key is None:
            say(f"warning: everybody who reaches {host} can use this server, see --api-key")
        address = f"[{host}]" if ":" in host else host
        say(f"serving {options.model_name} at http://{address}:{listening.getsockname()[1]}/v1, Ctrl-C ends it")
        run(app, listening)


def _serve_on_cluster(address: str, replicas: tuple[int, int], what: tuple[Any, ...], host: str, port: int) -> None:
    """Serves with Ray Serve until SIGINT or SIGTERM."""
    from ..bundle import read_manifest
    from ..serve.ray_serve import Replica, deployed, wait_for_end
    from ..serve.server import is_loopback

    bundle, *rest = what
    read_manifest(bundle)
    local, replica = is_loopback(host), Replica(bundle.absolute(), *rest)
    if not local and replica.options.api_key is None:
        say(f"warning: everybody who reaches {host} can use this server, see --api-key")
    with deployed(address, replica, host, port, local, replicas):
        shown = f"[{host}]" if ":" in host else host
        say(f"serving {replica.options.model_name} on the Ray cluster at http://{shown}:{port}/v1, Ctrl-C ends it")
        wait_for_end()
