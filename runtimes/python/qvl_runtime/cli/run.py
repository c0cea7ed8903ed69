"""The command `run`: answers a prompt about images, PDFs and videos."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..common.standard_streams import end_line, print_json, put, say
from ..errors import PromptError
from ..printable import printable
from .command import PromptCommand, prompt_argument
from .messages import MediaOptions, build_messages
from .options import (
    bundle_argument,
    check_prune,
    check_sampling,
    device_option,
    file_path,
    integer,
    json_file,
    json_schema_option,
    media_options,
    prune_option,
    sampling_options,
    system_option,
    template_args_option,
    threads_option,
    verbose,
)
from .report import report

if TYPE_CHECKING:
    from ..answers.stream import Stream
    from ..grounding import Region
    from ..model import Model
    from ..prompts.prompt import PlacedMedia

EXAMPLES = (
    'run bundle --image page.png "What is the total?"',
    'run bundle --pdf contract.pdf --pages 1-3 "Who signs?" --json',
    'run bundle --image page.png "The fields." --json-schema schema.json',
    'run bundle --image scan.png --prune scan "Read the text."',
    'run bundle --image page.png "Locate the total." --draw boxes.png',
    'run bundle --video clip.mp4 --fps 1 "What happens?"',
)
CUTS: dict[str | None, str] = {"length": "--max-new-tokens", "timeout": "--timeout"}
"""Finish reason → the option that cut the answer off."""


@click.command(cls=PromptCommand, examples=EXAMPLES)
@bundle_argument
@prompt_argument
@media_options
@prune_option
@system_option
@sampling_options
@template_args_option
@click.option("--tools", type=file_path, metavar="FILE", help="JSON list of functions that the model may call.")
@json_schema_option
@click.option(
    "--draw", type=file_path, metavar="FILE", help="Draw the boxes of the answer on the image, and write it here."
)
@threads_option
@device_option
@click.option("--json", "as_json", is_flag=True, help="Print text, tokens and times as one JSON object.")
@click.option("--top-logprobs", type=integer, metavar="N",
              help="With --json, add the log probability of every token, and of the N likeliest ones.")  # fmt: skip
@verbose
def run(
    bundle: Path, prompt: str | None, media: MediaOptions, prune: Any, system: str | None,
    template_args: tuple[str, ...], tools: Path | None, json_schema: Path | None, draw: Path | None,
    threads: int | None, device: str | None, as_json: bool, top_logprobs: int | None, **settings: Any,
) -> None:  # fmt: skip
    """Answer PROMPT about images, streaming the answer.

    PROMPT may be omitted if there is an image. Write -- before a PROMPT that begins with a dash.
    """
    from ..drawing import check_writable
    from ..model import load
    from ..templates.chat import parse_arguments

    settings["template_args"] = parse_arguments(template_args)
    if draw:
        check_writable(draw, [*media.image, *media.pdf])
    check_prune(prune, media)
    check_sampling(settings)
    if top_logprobs is not None:
        if not as_json:
            raise PromptError("--top-logprobs needs --json")
        settings["logprobs"], settings["top_logprobs"] = True, top_logprobs
    settings["tools"], settings["json_schema"] = json_file(tools), json_file(json_schema)
    if json_schema and settings["json_schema"] is None:
        raise PromptError("is null, which is not a schema", where=json_schema)
    messages = build_messages(media, prompt, system)
    with load(bundle, threads, prune, device) as model:
        answer(model, messages, settings, draw, as_json)


def answer(
    model: Model, messages: list[dict[str, Any]], settings: Mapping[str, Any], draw: Path | None, as_json: bool
) -> None:
    """Answers the messages, and prints and draws the answer."""
    stream = model.stream(messages, **settings)
    placed = _placed_image(stream) if draw else None
    result: dict[str, Any] = {"text": print_pieces(stream, quiet=as_json)}
    if settings["tools"] is not None:
        result.update(tool_calls(result["text"], settings["tools"]))
    if draw and placed:
        regions = model.regions(result["text"], placed)
        _draw(draw, placed, regions)
        result["regions"] = [asdict(region) for region in regions]
    if as_json:
        print_json({**result, **report(stream.run)})
    elif stream.run.loop:
        say(f"note: the answer was stopped, its last {stream.run.loop} tokens repeat")
    elif option := CUTS.get(stream.run.finish_reason or ""):
        closed = " and closed" if stream.run.forced else ""
        say(f"note: the answer was cut off{closed}, see {option}")


def tool_calls(answer: str, tools: Any = None) -> dict[str, Any]:
    """Returns the tool calls of an answer; malformed ones are also noted on standard error."""
    from ..tools import parse_calls

    reply = parse_calls(answer, tools)
    for text in reply.malformed:
        say(f"note: a malformed tool call: {' '.join(text.split())[:200]}")
    return {"tool_calls": [asdict(call) for call in reply.calls], "malformed_tool_calls": list(reply.malformed)}


def print_pieces(stream: Stream, quiet: bool) -> str:
    """Returns the whole answer; unless `quiet`, prints it as it comes, without control characters on a terminal."""
    pieces = []
    clean = printable if sys.stdout.isatty() else str
    for piece in stream:
        pieces.append(piece)
        if not quiet:
            put(clean(piece), end="")
    if pieces and not quiet:
        end_line()
    elif not quiet:
        put("")
    return "".join(pieces)


def _placed_image(stream: Stream) -> PlacedMedia:
    """Returns the only image of the prompt; raises PromptError, before anything is generated, if there are others."""
    placed = stream.prompt.placed if stream.prompt else ()
    if len(placed) != 1 or placed[0].media.kind != "image":
        raise PromptError(f"--draw needs exactly one image to draw on, there are {len(placed)} images or videos")
    return placed[0]


def _draw(path: Path, placed: PlacedMedia, regions: list[Region]) -> None:
    from .. import drawing

    drawing.save(drawing.draw(placed.media.frames[0], regions), path)
    if not regions:
        say(f"note: the answer has no boxes, {path} is the page alone")
