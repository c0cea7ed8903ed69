"""Deploys the application with Ray Serve: replicas on the machines of a cluster, each with a model of its own.

Ray balances requests, starts replicas anew and scales their number. Every machine must see the bundle under the same
path and have qvl-runtime installed with its extras `serve` and `ray`.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.applications import Starlette

from ..common.extras import install_fix
from ..common.ray_connection import connected
from ..errors import EngineError, InstallError
from ..model import load
from ..printable import first_line
from .app import create_app
from .options import ServeOptions

NAME = "qvl"
"""Name of the application in Ray Serve."""
SPARE_REQUESTS = 16
"""Requests that a replica gets beyond its slots and its queue: it refuses them with 429, and answers `/health`."""
PROXY_REQUESTS = 128
"""Requests that each proxy holds, those that it is handing on included; Ray answers further ones with 503."""
SIGNAL_SECONDS = 0.5
"""Longest time until a signal is noticed where it does not interrupt a wait, as on Windows."""


@dataclass(frozen=True)
class Replica:
    """What each replica loads, in its own process."""

    bundle: Path
    options: ServeOptions
    threads: int | None = None
    prune: Any = None
    device: str | None = None

    def open(self) -> Starlette:
        """Returns the application with its loaded model."""
        return create_app(load(self.bundle, self.threads, self.prune, self.device), self.options)


@contextlib.contextmanager
def deployed(
    address: str, replica: Replica, host: str, port: int, local: bool, replicas: tuple[int, int]
) -> Iterator[None]:
    """Deploys replicas, between two numbers, on the cluster at `address`; they are removed after the block.

    Ray's proxies listen at `host` and `port` on every machine, on the head alone if the address is `local`. Raises
    InstallError without Ray Serve, EngineError if no cluster answers, if it has this application already or if the
    replicas do not start.
    """
    ray = connected(address)
    try:
        try:
            from ray import serve
        except ImportError as error:
            raise InstallError(f"serve --ray needs {error.name}", fix=install_fix("ray")) from error
        _refuse_second(serve, address)
        serve.start(http_options={"host": host, "port": port, "location": "HeadOnly" if local else "EveryNode"})
        try:
            _run(serve, replica, replicas)
            yield
        finally:
            with contextlib.suppress(ray.exceptions.RayError, RuntimeError):  # the cluster may have ended before
                serve.delete(NAME)
    finally:
        ray.shutdown()


def _refuse_second(serve: Any, address: str) -> None:
    """Raises EngineError if the cluster has this application: deploying it would replace the other one."""
    if NAME in serve.status().applications:
        fix = "end that one; `serve shutdown` removes what a killed one has left"
        raise EngineError("another `serve --ray` runs on this cluster", where=address, fix=fix)


def _run(serve: Any, replica: Replica, replicas: tuple[int, int]) -> None:
    try:
        serve.run(_application(serve, replica, replicas), name=NAME, route_prefix="/")
    except RuntimeError as error:
        raise EngineError(f"the replicas do not start: {first_line(error)}", fix="see the logs of Ray Serve") from error


def _application(serve: Any, replica: Replica, replicas: tuple[int, int]) -> Any:
    def build() -> Starlette:  # Ray calls functions, not other callables
        return replica.open()

    least, most = replicas
    number: dict[str, Any] = {"num_replicas": least}
    if most > least:
        number = {"autoscaling_config": {"min_replicas": least, "max_replicas": most}}
    deployment = serve.deployment(
        serve.ingress(build)(),
        ray_actor_options={"num_cpus": replica.threads or 1},
        max_ongoing_requests=replica.options.parallel + replica.options.waiting + SPARE_REQUESTS,
        max_queued_requests=PROXY_REQUESTS,
        **number,
    )
    return deployment.bind()


def wait_for_end() -> None:
    """Returns at SIGINT or SIGTERM."""
    ended = threading.Event()
    before = {each: signal.signal(each, lambda *_: ended.set()) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        while not ended.wait(SIGNAL_SECONDS):
            pass
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
