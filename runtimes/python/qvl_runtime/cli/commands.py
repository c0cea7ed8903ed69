"""The commands of `python -m qvl_runtime`: each takes parsed options and returns the exit code."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.files import read_file
from ..common.standard_streams import print_json, put, say, show
from ..errors import MediaError, PromptError
from ..media.sources import describe_source, resolve_source
from ..printable import one_line, printable
from .arguments import BENCH_PROMPT, Commands

MAX_JSON_BYTES = 16 << 20
"""Maximum size of a file of tools or a schema."""

if TYPE_CHECKING:
    from ..answers.generate import GenerationStats
    from ..answers.stream import Stream
    from ..grounding import Region
    from ..model import Model
    from ..prompts.prompt import PlacedMedia

CUTS: dict[str | None, str] = {"length": "--max-new-tokens", "timeout": "--timeout"}
"""Finish reason → the option that cut the answer off."""


def _messages(options: argparse.Namespace) -> list[dict[str, Any]]:
    from ..pdf import pdf_pages

    _check_media(options)
    parts: list[dict[str, Any]] = [{"type": "image", "image": image} for image in options.image]
    for pdf in options.pdf:
        parts += [{"type": "image", "image": page} for page in pdf_pages(_path(pdf), options.pages)]
    parts += [_video(name, options) for name in options.video]
    if options.prompt:
        parts.append({"type": "text", "text": options.prompt})
    system = getattr(options, "system", None)
    first = [] if system is None else [{"role": "system", "content": system}]
    return [*first, {"role": "user", "content": parts}]


def _check_media(options: argparse.Namespace) -> None:
    """Raises PromptError for an option without the media that it applies to."""
    for name, value, medium in (
        ("--pages", options.pages, "pdf"),
        ("--fps", options.fps, "video"),
        ("--max-frames", options.max_frames, "video"),
    ):
        if value is not None and not getattr(options, medium):
            raise PromptError(f"{name} needs --{medium}")


def _path(name: str) -> str | Path:
    """Returns the path of a PDF, which may be given as a `file:` URL."""
    path = resolve_source(name)
    if isinstance(path, bytes):
        raise MediaError("is no path", where=describe_source(name), fix="PDFs are given as files")
    return path


def _video(name: str, options: argparse.Namespace) -> dict[str, Any]:
    from ..media.video import DEFAULT_FPS, MAX_FRAMES
    from .frames import video_source

    source = video_source(name)
    most = options.max_frames or (MAX_FRAMES if isinstance(source, list) else None)
    limit = {} if most is None else {"max_frames": most}
    return {"type": "video", "video": source, "fps": DEFAULT_FPS if options.fps is None else options.fps, **limit}


def run(options: argparse.Namespace) -> int:
    from ..drawing import check_writable
    from ..model import load
    from ..templates.chat import parse_arguments

    options.template_args = parse_arguments(options.template_arg)
    if options.draw:
        check_writable(options.draw, [*options.image, *options.pdf])
    _check_sampling(options)
    tools, schema = _json_file(options.tools), _json_file(options.json_schema)
    if options.json_schema and schema is None:
        raise PromptError("is null, no schema", where=options.json_schema)
    messages = _messages(options)
    with load(options.bundle, options.threads) as model:
        return _run(model, messages, options, tools, schema)


def _check_sampling(options: argparse.Namespace) -> None:
    """Raises PromptError for invalid sampling options, and for those without effect in greedy decoding."""
    from ..answers.sampling import Sampling

    values = {name: getattr(options, name) for name in ("temperature", "top_p", "top_k", "seed", "min_p")}
    sampling = Sampling(**{name: value for name, value in values.items() if value is not None})
    idle = {
        "--top-p": sampling.top_p < 1,
        "--top-k": sampling.top_k > 0,
        "--min-p": sampling.min_p > 0,
        "--seed": options.seed is not None,
    }
    recommended = options.use_generation_config  # it may set a temperature
    for name, given in idle.items():
        if given and sampling.temperature == 0 and not recommended:
            raise PromptError(f"{name} does nothing at temperature 0", fix="add --temperature 0.7")


def _run(model: Model, messages: list[dict[str, Any]], options: argparse.Namespace, tools: Any, schema: Any) -> int:
    stream = model.stream(
        messages,
        options.max_new_tokens,
        options.temperature,
        options.top_p,
        options.top_k,
        options.seed,
        tools=tools,
        json_schema=schema,
        template_args=options.template_args,
        min_p=options.min_p,
        repetition_penalty=options.repetition_penalty,
        no_repeat_ngram_size=options.no_repeat_ngram_size,
        use_generation_config=options.use_generation_config,
        stop=options.stop,
        timeout=options.timeout,
    )
    place = _drawing_place(stream) if options.draw else None
    result: dict[str, Any] = {"text": _answer(stream, quiet=options.json)}
    if tools is not None:
        result.update(_calls(result["text"]))
    if place:
        regions = model.regions(result["text"], place)
        _draw(options.draw, place, regions)
        result["regions"] = [asdict(region) for region in regions]
    if options.json:
        print_json({**result, **_report(stream.run)})
    elif option := CUTS.get(stream.run.finish_reason or ""):
        closed = " and closed" if stream.run.forced else ""
        say(f"note: the answer was cut off{closed}, see {option}")
    return 0


def _json_file(path: Path | None) -> Any:
    """Returns the JSON value of a file, or None without a path."""
    if path is None:
        return None
    text = read_file(path, MAX_JSON_BYTES, PromptError)
    try:
        return json.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise PromptError(f"is not JSON: {error}", where=path) from error


def _calls(answer: str) -> dict[str, Any]:
    """Returns the tool calls of an answer; malformed ones are also noted on standard error."""
    from ..tools import parse_calls

    reply = parse_calls(answer)
    for text in reply.malformed:
        say(f"note: a malformed tool call: {' '.join(text.split())[:200]}")
    return {"tool_calls": [asdict(call) for call in reply.calls], "malformed_tool_calls": list(reply.malformed)}


def _answer(stream: Stream, quiet: bool) -> str:
    """Returns the whole answer; unless `quiet`, prints it as it comes, without control characters on a terminal."""
    pieces = []
    clean = printable if sys.stdout.isatty() else str
    for piece in stream:
        pieces.append(piece)
        if not quiet:
            put(clean(piece), end="")
    if not quiet:
        put("")
    return "".join(pieces)


def _drawing_place(stream: Stream) -> PlacedMedia:
    """Returns the only image of the prompt; raises PromptError, before anything is generated, if there are others."""
    placed = stream.prompt.placed if stream.prompt else ()
    if len(placed) != 1 or placed[0].media.kind != "image":
        raise PromptError(f"--draw needs exactly one image to draw on, there are {len(placed)} images or videos")
    return placed[0]


def _draw(path: Path, place: PlacedMedia, regions: list[Region]) -> None:
    from .. import drawing

    drawing.save(drawing.draw(place.media.frames[0], regions), path)
    if not regions:
        say(f"note: the answer has no boxes, {path} is the page alone")


def _report(run: GenerationStats) -> dict[str, Any]:
    decoded = max(0, run.counts.generated - 1)
    speed = round(decoded / run.times.decode, 2) if run.times.decode else None
    times = {name: round(seconds, 4) for name, seconds in asdict(run.times).items()}
    return {
        "tokens": run.tokens,
        "finish_reason": run.finish_reason,
        **({"stop_string": run.stop_string} if run.stop_string else {}),
        **({"forced": run.forced} if run.forced else {}),
        "counts": asdict(run.counts),
        "seconds": times,
        "tokens_per_second": speed,
    }


def inspect(options: argparse.Namespace) -> int:
    import msgspec

    from ..bundle import read_manifest, verify

    manifest = read_manifest(options.bundle)
    checked = dict(verify(options.bundle, manifest)) if options.verify else {}
    damaged = [name for name, good in checked.items() if not good]
    if options.json:
        verified = {"verified": checked, "damaged": damaged} if options.verify else {}
        print_json({**msgspec.to_builtins(manifest), **verified}, indent=1)
    else:
        from .describe import describe

        show(describe(manifest))
        for name, good in checked.items():
            show(f"{'ok     ' if good else 'DAMAGED'}  {one_line(name)}")
        if damaged:
            put(f"{len(damaged)} of {len(checked)} files differ from what was written: copy or export the bundle again")
    return 1 if damaged else 0


def bench(options: argparse.Namespace) -> int:
    import time

    from ..model import load
    from ..templates.chat import parse_arguments

    options.prompt = options.prompt or BENCH_PROMPT
    options.template_args = parse_arguments(options.template_arg)
    messages = _messages(options)
    loads, runs = [], []
    for _ in range(options.repeat):
        began = time.perf_counter()
        with load(options.bundle, options.threads) as model:
            loads.append(time.perf_counter() - began)
            runs.append(_fresh(model, messages, options))
    result = _medians(loads, runs)
    if options.json:
        print_json(result)
    else:
        seconds = {"load": result.pop("load_seconds"), **result.pop("seconds")}
        flat = {**{f"{key} (s)": value for key, value in seconds.items()}, **result}
        put("\n".join(f"{key:18} {value}" for key, value in flat.items()))
    return 0


def _medians(loads: list[float], runs: list[dict[str, Any]]) -> dict[str, Any]:
    import statistics

    speeds = [run["tokens_per_second"] for run in runs if run["tokens_per_second"]]
    return {
        "load_seconds": round(statistics.median(loads), 3),
        "seconds": {key: statistics.median(run["seconds"][key] for run in runs) for key in runs[0]["seconds"]},
        "tokens_per_second": statistics.median(speeds) if speeds else None,
        "prompt_tokens": runs[0]["counts"]["prompt"],
        "image_tokens": runs[0]["counts"]["image"],
        "peak_memory_mb": _peak_memory_mb(),
        "repeat": len(runs),
    }


def _fresh(model: Model, messages: list[dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    """Runs once on a freshly loaded model, so without cached features or keys."""
    stream = model.stream(
        messages,
        options.max_new_tokens,
        seed=0,
        ignore_eos=True,
        template_args=options.template_args,
        use_generation_config=options.use_generation_config,
    )
    for _ in stream:
        pass
    return _report(stream.run)


def _peak_memory_mb() -> float | None:
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)


COMMANDS: Commands = {"run": run, "inspect": inspect, "bench": bench}
