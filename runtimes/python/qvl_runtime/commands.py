"""What the commands of `python -m qvl_runtime` do with their parsed options; each returns the exit code."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from .arguments import BENCH_PROMPT, Commands
from .errors import PromptError

if TYPE_CHECKING:
    from .generate import Run
    from .model import Model


def _messages(options: argparse.Namespace) -> list[dict[str, Any]]:
    from .media import pdf_pages

    if options.pages and not options.pdf:
        raise PromptError("--pages needs --pdf")
    parts: list[dict[str, Any]] = [{"type": "image", "image": image} for image in options.image]
    for pdf in options.pdf:
        parts += [{"type": "image", "image": page} for page in pdf_pages(pdf, options.pages)]
    if options.video:
        parts.append({"type": "video", "video": options.video, "fps": options.fps})
    if options.prompt:
        parts.append({"type": "text", "text": options.prompt})
    system = [{"role": "system", "content": options.system}] if getattr(options, "system", None) else []
    return [*system, {"role": "user", "content": parts}]


def run(options: argparse.Namespace) -> int:
    from .model import load

    stream = load(options.bundle, options.threads).stream(
        _messages(options), options.max_new_tokens, options.temperature, options.top_p, options.top_k, options.seed
    )
    pieces = []
    for piece in stream:
        pieces.append(piece)
        if not options.json:
            print(piece, end="", flush=True)
    if options.json:
        print(json.dumps({"text": "".join(pieces), **_report(stream.run)}, ensure_ascii=False))
    else:
        print()
        if stream.run.finish_reason == "length":
            print("note: the answer was cut off, see --max-new-tokens", file=sys.stderr)
    return 0


def _report(run: Run) -> dict[str, Any]:
    decoded = max(0, run.counts.generated - 1)
    speed = round(decoded / run.times.decode, 2) if run.times.decode else None
    times = {name: round(seconds, 4) for name, seconds in asdict(run.times).items()}
    return {
        "tokens": run.tokens,
        "finish_reason": run.finish_reason,
        "counts": asdict(run.counts),
        "seconds": times,
        "tokens_per_second": speed,
    }


def inspect(options: argparse.Namespace) -> int:
    import msgspec

    from . import manifest as manifests

    manifest = manifests.read(options.bundle)
    checked = dict(manifests.verify(options.bundle, manifest)) if options.verify else {}
    if options.json:
        verified = {"verified": checked} if options.verify else {}
        print(json.dumps({**msgspec.to_builtins(manifest), **verified}, indent=1, ensure_ascii=False))
    else:
        from .describe import describe

        print(describe(manifest))
        for name, good in checked.items():
            print(f"{'ok     ' if good else 'DAMAGED'}  {name}")
    return 0 if all(checked.values()) else 1


def bench(options: argparse.Namespace) -> int:
    import statistics
    import time

    from .model import load

    options.prompt = options.prompt or BENCH_PROMPT
    messages = _messages(options)
    loads, runs = [], []
    for _ in range(options.repeat):
        began = time.perf_counter()
        model = load(options.bundle, options.threads)
        loads.append(time.perf_counter() - began)
        runs.append(_fresh(model, messages, options))
    seconds = {key: statistics.median(run["seconds"][key] for run in runs) for key in runs[0]["seconds"]}
    speeds = [run["tokens_per_second"] for run in runs if run["tokens_per_second"]]
    result = {
        "load_seconds": round(statistics.median(loads), 3),
        "seconds": seconds,
        "tokens_per_second": statistics.median(speeds) if speeds else None,
        "prompt_tokens": runs[0]["counts"]["prompt"],
        "image_tokens": runs[0]["counts"]["image"],
        "peak_memory_mb": _peak_memory_mb(),
        "repeat": options.repeat,
    }
    if options.json:
        print(json.dumps(result))
    else:
        flat = {f"{key} (s)": value for key, value in {"load": result.pop("load_seconds"), **seconds}.items()}
        del result["seconds"]
        print("\n".join(f"{key:18} {value}" for key, value in {**flat, **result}.items()))
    return 0


def _fresh(model: Model, messages: list[dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    """One run without any cached features or keys."""
    stream = model.stream(messages, options.max_new_tokens, ignore_eos=True)
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
