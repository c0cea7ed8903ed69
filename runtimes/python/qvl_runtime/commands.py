"""What the commands of `python -m qvl_runtime` do with their parsed options; each returns the exit code."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import BENCH_PROMPT, Commands
from .errors import PromptError

if TYPE_CHECKING:
    from .generate import Run
    from .grounding import Region
    from .model import Model
    from .prompt import Placed
    from .stream import Stream

CUTS: dict[str | None, str] = {"length": "--max-new-tokens", "timeout": "--timeout"}
"""The option that cuts an answer, by the reason why it ended."""


def _messages(options: argparse.Namespace) -> list[dict[str, Any]]:
    from .pdf import pdf_pages

    if options.pages and not options.pdf:
        raise PromptError("--pages needs --pdf")
    parts: list[dict[str, Any]] = [{"type": "image", "image": image} for image in options.image]
    for pdf in options.pdf:
        parts += [{"type": "image", "image": page} for page in pdf_pages(pdf, options.pages)]
    if options.video:
        parts.append(_video(options))
    if options.prompt:
        parts.append({"type": "text", "text": options.prompt})
    system = [{"role": "system", "content": options.system}] if getattr(options, "system", None) else []
    return [*system, {"role": "user", "content": parts}]


def _video(options: argparse.Namespace) -> dict[str, Any]:
    """A single file is a video unless it ends like an image; several are its frames."""
    from .drawing import is_image

    frames: list[str] = options.video
    source = frames if len(frames) > 1 or is_image(Path(frames[0])) else frames[0]
    limit = {} if options.max_frames is None else {"max_frames": options.max_frames}
    return {"type": "video", "video": source, "fps": options.fps, **limit}


def run(options: argparse.Namespace) -> int:
    from .drawing import image_format
    from .model import load

    if options.draw:
        image_format(options.draw)
        if not options.draw.absolute().parent.is_dir():
            raise PromptError("there is no such directory", where=options.draw.parent, fix="make it first")
    tools, schema = _json_file(options.tools), _json_file(options.json_schema)
    if options.json_schema and schema is None:
        raise PromptError("is null, no schema", where=options.json_schema)
    with load(options.bundle, options.threads) as model:
        return _run(model, options, tools, schema)


def _run(model: Model, options: argparse.Namespace, tools: Any, schema: Any) -> int:
    stream = model.stream(
        _messages(options),
        options.max_new_tokens,
        options.temperature,
        options.top_p,
        options.top_k,
        options.seed,
        tools=tools,
        json_schema=schema,
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
        print(json.dumps({**result, **_report(stream.run)}, ensure_ascii=False))
    elif option := CUTS.get(stream.run.finish_reason):
        closed = " and closed" if stream.run.forced else ""
        print(f"note: the answer was cut off{closed}, see {option}", file=sys.stderr)
    return 0


def _json_file(path: Path | None) -> Any:
    """The JSON value of a file, None without one."""
    try:
        return None if path is None else json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise PromptError(f"is not JSON: {error}", where=path) from error


def _calls(answer: str) -> dict[str, Any]:
    """The tool calls of an answer; a malformed one is noted on standard error too."""
    from .tools import parse_calls

    reply = parse_calls(answer)
    for text in reply.malformed:
        print(f"note: a malformed tool call: {' '.join(text.split())[:200]}", file=sys.stderr)
    return {"tool_calls": [asdict(call) for call in reply.calls], "malformed_tool_calls": list(reply.malformed)}


def _answer(stream: Stream, quiet: bool) -> str:
    """The whole answer, printed as it comes unless `quiet`."""
    pieces = []
    for piece in stream:
        pieces.append(piece)
        if not quiet:
            print(piece, end="", flush=True)
    if not quiet:
        print(flush=True)
    return "".join(pieces)


def _drawing_place(stream: Stream) -> Placed:
    """The one image of the prompt; raises PromptError before anything is answered."""
    placed = stream.prompt.placed if stream.prompt else ()
    if len(placed) != 1 or placed[0].media.kind != "image":
        raise PromptError(f"--draw needs exactly one image to draw on, there are {len(placed)} images or videos")
    return placed[0]


def _draw(path: Path, place: Placed, regions: list[Region]) -> None:
    from . import drawing

    drawing.save(drawing.draw(place.media.frames[0], regions), path)
    if not regions:
        print(f"note: the answer has no boxes, {path} is the page alone", file=sys.stderr)


def _report(run: Run) -> dict[str, Any]:
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

    from .bundle import read_manifest, verify

    manifest = read_manifest(options.bundle)
    checked = dict(verify(options.bundle, manifest)) if options.verify else {}
    damaged = [name for name, good in checked.items() if not good]
    if options.json:
        verified = {"verified": checked, "damaged": damaged} if options.verify else {}
        print(json.dumps({**msgspec.to_builtins(manifest), **verified}, indent=1, ensure_ascii=False))
    else:
        from .describe import describe

        print(describe(manifest))
        for name, good in checked.items():
            print(f"{'ok     ' if good else 'DAMAGED'}  {name}")
        if damaged:
            print(
                f"{len(damaged)} of {len(checked)} files differ from what was written: copy or export the bundle again"
            )
    return 1 if damaged else 0


def bench(options: argparse.Namespace) -> int:
    import time

    from .model import load

    options.prompt = options.prompt or BENCH_PROMPT
    messages = _messages(options)
    loads, runs = [], []
    for _ in range(options.repeat):
        began = time.perf_counter()
        with load(options.bundle, options.threads) as model:
            loads.append(time.perf_counter() - began)
            runs.append(_fresh(model, messages, options))
    result = _medians(loads, runs)
    if options.json:
        print(json.dumps(result))
    else:
        seconds = {"load": result.pop("load_seconds"), **result.pop("seconds")}
        flat = {**{f"{key} (s)": value for key, value in seconds.items()}, **result}
        print("\n".join(f"{key:18} {value}" for key, value in flat.items()))
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
    """One run without any cached features or keys."""
    as_recommended = options.use_generation_config
    stream = model.stream(
        messages, options.max_new_tokens, seed=0, ignore_eos=True, use_generation_config=as_recommended
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
