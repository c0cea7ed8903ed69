"""`python -m qvl_runtime run|inspect|bench BUNDLE`: a bundle on a device that has only the runtime."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from . import __version__
from .errors import PromptError, QvlError

if TYPE_CHECKING:
    from .generate import Run
    from .model import Model

BAD_INPUT = 2
BENCH_PROMPT = "Read the text."


def main(arguments: Sequence[str] | None = None, program: str = "python -m qvl_runtime") -> int:
    """Run one command; returns the exit code: 0, 1 where `inspect --verify` finds damage, 2 for bad input."""
    options = _parse(_parser(program), arguments)
    if sys.stdout is None:  # closed by the caller
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # an answer may hold what the terminal cannot show
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = _one_line_warning
            code: int = options.command(options)
            sys.stdout.flush()  # here, where a reader that went away is caught
    except QvlError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError:
        print("error: not enough memory (fewer or smaller images, or a smaller bundle)", file=sys.stderr)
        return BAD_INPUT
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    return code


class _Parser(argparse.ArgumentParser):
    """Errors of usage are one line, as all others."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"error: {message} (see {self.prog} --help)\n")


def _parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Before Python 3.12, argparse does not take an optional PROMPT that comes after an option or after `--`."""
    options, rest = parser.parse_known_args(arguments)
    literal = rest[:1] == ["--"]
    rest = rest[literal:]
    if "prompt" in options and options.prompt is None:
        if len(rest) == 1 and (literal or not rest[0].startswith("-")):
            options.prompt, rest = rest[0], []
        elif len(options.video) > 1 and not Path(options.video[-1]).exists():
            options.prompt = options.video.pop()  # `--video 1.png 2.png "What happens?"`
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return options


def _one_line_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"note: {message}", file=sys.stderr)


def _parser(program: str) -> argparse.ArgumentParser:
    parser = _Parser(prog=program, description="Run and inspect Qwen-VL bundles.")
    parser.add_argument("--version", action="version", version=f"qvl-runtime {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="answer a prompt about images, streaming the answer")
    run.set_defaults(command=_run)
    _add_bundle(run)
    run.add_argument("prompt", nargs="?", help="the question; may be left out if there is an image")
    _add_media(run)
    run.add_argument("--system", help="a system message in place of the template's own")
    _add_sampling(run)
    run.add_argument("--json", action="store_true", help="print text, tokens and times as one JSON object")
    inspect = commands.add_parser("inspect", help="what is inside a bundle")
    inspect.set_defaults(command=_inspect)
    inspect.add_argument("bundle", type=Path, metavar="BUNDLE", help="a bundle directory")
    inspect.add_argument("--verify", action="store_true", help="recompute the sha256 of every file")
    inspect.add_argument("--json", action="store_true", help="print the manifest as JSON")
    bench = commands.add_parser("bench", help="time a prompt: load, image encoding, prefill, generation")
    bench.set_defaults(command=_bench)
    _add_bundle(bench)
    bench.add_argument("prompt", nargs="?", help=f"the question (default: {BENCH_PROMPT})")
    _add_media(bench)
    bench.add_argument("--repeat", type=_positive, default=3, metavar="N", help="runs, of which the median is printed")
    bench.add_argument("--max-new-tokens", type=_positive, default=32, metavar="N", help="tokens a run (default: 32)")
    bench.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def _add_bundle(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="a bundle directory")
    parser.add_argument("--threads", type=_positive, metavar="N", help="cores to use (default: all)")


def _add_media(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--image", action="append", default=[], metavar="FILE", help="an image; may be repeated")
    parser.add_argument("--pdf", action="append", default=[], metavar="FILE", help="a PDF whose pages are images")
    parser.add_argument("--pages", metavar="1-3,7-", help="pages of the PDFs, from one (default: all)")
    parser.add_argument("--video", nargs="+", default=[], metavar="FRAME", help="image files, the frames of one video")
    parser.add_argument("--fps", type=float, default=2.0, help="frames a second of the video (default: 2)")


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-new-tokens",
        type=_positive,
        metavar="N",
        help="longest answer (default: 512, or a quarter of the length)",
    )
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0 is greedy (default)")
    parser.add_argument(
        "--top-p", type=float, default=1.0, metavar="P", help="keep the likeliest tokens of this mass (default: 1)"
    )
    parser.add_argument("--top-k", type=int, default=0, metavar="K", help="0 keeps all tokens (default)")
    parser.add_argument("--seed", type=int, metavar="N", help="makes sampling repeatable")


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


def _run(options: argparse.Namespace) -> int:
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


def _inspect(options: argparse.Namespace) -> int:
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


def _bench(options: argparse.Namespace) -> int:
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


if __name__ == "__main__":
    sys.exit(main())
