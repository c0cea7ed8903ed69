"""Options that several commands share, and the types of numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import click

from ..common.files import read_file
from ..errors import BundleError, PromptError
from .messages import MediaOptions
from .number_types import Number
from .verbose import verbose_option

MAX_DIGITS = 18
MAX_JSON_BYTES = 16 << 20
"""Maximum size of a file of tools or a schema."""
QUOTED = 40
"""Most characters of a whole number (seeds are long), and of a number that an error quotes."""
Function = Callable[..., Any]


def integer(value: object) -> int:
    """Parses a whole number. Python refuses to read one of thousands of digits; here the error is short."""
    text = str(value)
    if not text.removeprefix("-").isdecimal() or len(text) > QUOTED:
        raise click.BadParameter(f"{text[:QUOTED]!r} is not a whole number")
    return int(text)


def positive(value: object) -> int:
    """Parses a whole number above zero."""
    text = str(value)
    if not text.isdecimal() or len(text) > MAX_DIGITS or int(text) < 1:
        raise click.BadParameter(f"{text[:QUOTED]!r} is not a positive whole number")
    return int(text)


def bundle_path(value: object) -> Path:
    """Parses the path of a bundle; an empty one, which would be the current directory, raises BundleError."""
    if not str(value):
        raise BundleError("the path of the bundle is empty")
    return Path(str(value))


def file_path(value: object) -> Path:
    """Parses the path of a file; an empty one, which would be the current directory, is refused."""
    if not str(value):
        raise click.BadParameter("the path is empty")
    return Path(str(value))


bundle_argument = click.argument("bundle", type=bundle_path)
threads_option = click.option("--threads", type=positive, metavar="N", help="Cores to use (default: all).")
device_option = click.option(
    "--device",
    metavar="NAME",
    help="Where OpenVINO runs a bundle of target openvino: CPU (default), GPU (GPU.1 is the second) or AUTO, not NPU.",
)
verbose = verbose_option("qvl_runtime")
system_option = click.option("--system", metavar="TEXT", help="A system message, in place of the template's own.")
json_schema_option = click.option(
    "--json-schema", type=file_path, metavar="FILE", help="Answer in JSON of this schema."
)
ray_option = click.option("--ray", metavar="ADDRESS", help="Distribute the work over the Ray cluster at this address.")
template_args_option = click.option(
    "--template-arg",
    "template_args",
    multiple=True,
    metavar="NAME=VALUE",
    help="A variable of the chat template, such as enable_thinking=false; may be repeated.",
)
generation_config_option = click.option(
    "--use-generation-config",
    is_flag=True,
    help="Use the sampling and penalties that the checkpoint recommends (see `inspect`); other options override them.",
)


def rule_option(name: str, meaning: str) -> Callable[[Function], Function]:
    """Returns the decorator that adds an option whose value is a rule of pruning, True if no value follows it."""
    return click.option(name, is_flag=False, flag_value=True, type=click.UNPROCESSED, metavar="[RULE]", help=meaning)


prune_option = rule_option(
    "--prune",
    "Leave out blank paper: off, exact, scan, or a tolerance from 0 to 255; scan if no RULE follows (default: the "
    "bundle's, see `inspect`).",
)
_MEDIA = (
    click.option("--image", multiple=True, metavar="FILE", help="An image; may be repeated."),
    click.option("--pdf", multiple=True, metavar="FILE", help="A PDF whose pages are images; may be repeated."),
    click.option("--pages", metavar="1-3,7-", help="Pages of the PDFs, counted from 1 (default: all)."),
    click.option(
        "--video",
        multiple=True,
        metavar="FILE",
        help="A video, or a directory or quoted pattern of images as its frames ('frames/*.png'); may be repeated.",
    ),
    click.option(
        "--fps",
        type=Number(),
        metavar="N",
        help="Frames per second to take from videos, or at which their images were taken (default: 2).",
    ),
    click.option(
        "--max-frames", type=positive, metavar="N", help="Maximum number of frames of a video (default: 768)."
    ),
)
_SAMPLING = (
    click.option(
        "--max-new-tokens",
        type=positive,
        metavar="N",
        help="Maximum length of an answer in tokens (default: 512, or a quarter of the bundle's length).",
    ),
    click.option("--temperature", type=Number(), metavar="T", help="Sampling temperature; 0 is greedy (default)."),
    click.option(
        "--top-p",
        type=Number(),
        metavar="P",
        help="Keep the likeliest tokens that together have probability P (default: 1).",
    ),
    click.option("--top-k", type=integer, metavar="K", help="Keep the K likeliest tokens; 0 keeps all (default)."),
    click.option(
        "--min-p",
        type=Number(),
        metavar="P",
        help="Keep tokens at least P times as likely as the likeliest (default: 0).",
    ),
    click.option("--seed", type=integer, metavar="N", help="Make sampling repeatable."),
    click.option(
        "--repetition-penalty",
        type=Number(),
        metavar="F",
        help="Divide the logits of tokens that occurred by F (default: 1).",
    ),
    click.option(
        "--no-repeat-ngram-size",
        type=integer,
        metavar="N",
        help="Let no run of N tokens occur twice; 0 allows all (default).",
    ),
    click.option(
        "--presence-penalty",
        type=Number(),
        default=0.0,
        metavar="F",
        help="Subtract F from the logits of tokens of the answer so far (default: 0).",
    ),
    generation_config_option,
    click.option("--stop", multiple=True, metavar="TEXT", help="End the answer before this text; may be repeated."),
    click.option("--stop-loops", is_flag=True, help="End an answer that repeats the same tokens over and over."),
    click.option("--timeout", type=Number(), metavar="SECONDS", help="End the answer after this time."),
    click.option(
        "--lookup/--no-lookup",
        default=None,
        help="Run several tokens per call: guesses from the prompt, and those that a schema determines (default: only "
        "the latter, in bundles of float weights).",
    ),
)


def check_prune(prune: Any, media: MediaOptions | None = None) -> None:
    """Raises PromptError for a `--prune` that is not a rule, and for one without any of the `media` that it needs."""
    from ..prune.rule import parse_option

    parse_option(prune)
    if prune is not None and media is not None and not (media.image or media.pdf or media.video):
        raise PromptError("--prune needs --image, --pdf or --video")


def check_sampling(settings: Mapping[str, Any]) -> None:
    """Raises PromptError for invalid sampling options, and for those without effect in greedy decoding."""
    from ..answers.sampling import Sampling

    values = {name: settings[name] for name in ("temperature", "top_p", "top_k", "seed", "min_p")}
    sampling = Sampling(**{name: value for name, value in values.items() if value is not None})
    idle = {
        "--top-p": sampling.top_p < 1,
        "--top-k": sampling.top_k > 0,
        "--min-p": sampling.min_p > 0,
        "--seed": values["seed"] is not None,
    }
    recommended = settings["use_generation_config"]  # it may set a temperature
    for name, given in idle.items():
        if given and sampling.temperature == 0 and not recommended:
            raise PromptError(f"{name} does nothing at temperature 0", fix="add --temperature 0.7")


def json_file(path: Path | None) -> Any:
    """Returns the JSON value of a file, or None without a path."""
    if path is None:
        return None
    text = read_file(path, MAX_JSON_BYTES, PromptError)
    try:
        return json.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise PromptError(f"is not JSON: {error}", where=path) from error


def media_options(function: Function) -> Function:
    """Adds the options that name images, PDFs and videos, and gives them to the function as `media`."""

    @wraps(function)
    def with_media(*arguments: Any, **options: Any) -> Any:
        media = MediaOptions(**{name: options.pop(name) for name in MediaOptions._fields})
        return function(*arguments, media=media, **options)

    return add_options(_MEDIA, with_media)


def sampling_options(function: Function) -> Function:
    """Adds the options of an answer, named as the parameters of `Model.stream`."""
    return add_options(_SAMPLING, function)


def add_options(options: Sequence[Callable[[Function], Function]], function: Function) -> Function:
    """Returns a function with options, in their order in the help."""
    for option in reversed(options):
        function = option(function)
    return function
