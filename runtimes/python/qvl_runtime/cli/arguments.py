"""The command line of `python -m qvl_runtime`: commands, options, and their help."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from .. import __version__
from ..printable import one_line

BAD_INPUT = 2
MAX_DIGITS = 18
BENCH_PROMPT = "Read the text."
Commands = Mapping[str, Callable[[argparse.Namespace], int]]
EXAMPLES: Mapping[str, Sequence[str]] = {
    "run": (
        'run bundle --image page.png "What is the total?"',
        'run bundle --pdf contract.pdf --pages 1-3 "Who signs?" --json',
        'run bundle --image page.png "The fields." --json-schema schema.json',
        'run bundle --image page.png "Locate the total." --draw boxes.png',
        'run bundle --video clip.mp4 --fps 1 "What happens?"',
    ),
    "inspect": ("inspect bundle", "inspect bundle --verify", "inspect bundle --json"),
    "bench": ("bench bundle --image page.png", "bench bundle --image page.png --threads 2 --repeat 5 --json"),
}


class _Parser(argparse.ArgumentParser):
    """Reports usage errors in one line, like all other errors."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"error: {one_line(message)} (see {self.prog} --help)\n")


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parses options; works around argparse before 3.12, which rejects an optional PROMPT after an option or `--`."""
    options, rest = parser.parse_known_args(arguments)
    literal = "--" in (sys.argv[1:] if arguments is None else arguments)
    rest = rest[rest[:1] == ["--"] :]
    if "prompt" in options:
        if options.prompt is None and len(rest) == 1 and (literal or not rest[0].startswith("-")):
            options.prompt, rest = rest[0], []
        if not literal:
            _check_loose(parser, options, [*filter(None, [options.prompt]), *rest])
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return options


def _check_loose(parser: argparse.ArgumentParser, options: argparse.Namespace, words: Sequence[str]) -> None:
    """Exits with an error that names the option missing before a media file's name."""
    from .frames import VIDEO_FORMS, looks_like_media

    for word in words:
        if looks_like_media(word) and options.video:
            parser.error(f"--video takes one name, {word} is another: write {VIDEO_FORMS}")
        if looks_like_media(word):
            parser.error(f"{word} is a file and not a question: give it with --image or --video")


def make_parser(program: str, commands: Commands) -> argparse.ArgumentParser:
    """Returns the parser; its options hold the function of `commands` to call as `command`."""
    every = [examples[0] for examples in EXAMPLES.values()]
    parser = _Parser(prog=program, description="Run and inspect Qwen-VL bundles.", **_shown(program, every))
    parser.add_argument("--version", action="version", version=f"qvl-runtime {__version__}")
    added = parser.add_subparsers(required=True, metavar="COMMAND")
    shown = {name: _shown(program, examples) for name, examples in EXAMPLES.items()}
    run = added.add_parser("run", help="answer a prompt about images, streaming the answer", **shown["run"])
    _add_run(run)
    inspect = added.add_parser("inspect", help="what is inside a bundle", **shown["inspect"])
    _add_inspect(inspect)
    bench = added.add_parser("bench", help="time a prompt: load, image encoding, prefill, generation", **shown["bench"])
    _add_bench(bench)
    for name, command in {"run": run, "inspect": inspect, "bench": bench}.items():
        command.set_defaults(command=commands[name])
    return parser


def _shown(program: str, examples: Sequence[str]) -> dict[str, Any]:
    """Returns the keyword arguments of a parser whose help ends with examples."""
    lines = "".join(f"\n  {program} {example}" for example in examples)
    return {"epilog": f"examples:{lines}", "formatter_class": argparse.RawDescriptionHelpFormatter}


def _add_run(run: argparse.ArgumentParser) -> None:
    _add_bundle(run)
    run.add_argument("prompt", nargs="?", help="the question; may be left out if there is an image")
    _add_media(run)
    run.add_argument("--system", help="a system message in place of the template's own")
    _add_sampling(run)
    run.add_argument("--tools", type=Path, metavar="FILE", help="JSON list of functions that the model may call")
    run.add_argument("--json-schema", type=Path, metavar="FILE", help="answer in JSON of this schema")
    run.add_argument(
        "--draw", type=Path, metavar="FILE", help="write the image with the boxes of the answer drawn on it"
    )
    run.add_argument("--json", action="store_true", help="print text, tokens and times as one JSON object")


def _add_inspect(inspect: argparse.ArgumentParser) -> None:
    inspect.add_argument("bundle", type=Path, metavar="BUNDLE", help="a bundle directory")
    inspect.add_argument("--verify", action="store_true", help="recompute the sha256 of every file")
    inspect.add_argument("--json", action="store_true", help="print the manifest as JSON")


def _add_bench(bench: argparse.ArgumentParser) -> None:
    _add_bundle(bench)
    bench.add_argument("prompt", nargs="?", help=f"the question (default: {BENCH_PROMPT})")
    _add_media(bench)
    bench.add_argument("--repeat", type=_positive, default=3, metavar="N", help="runs, of which the median is printed")
    bench.add_argument("--max-new-tokens", type=_positive, default=32, metavar="N", help="tokens a run (default: 32)")
    _add_generation_config(bench)
    bench.add_argument("--json", action="store_true", help="print the figures as one JSON object")


def _positive(text: str) -> int:
    if not text.isdecimal() or len(text) > MAX_DIGITS or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a positive whole number")
    return int(text)


def _add_bundle(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="a bundle directory")
    parser.add_argument("--threads", type=_positive, metavar="N", help="cores to use (default: all)")


def _add_media(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--image", action="append", default=[], metavar="FILE", help="an image; may be repeated")
    parser.add_argument("--pdf", action="append", default=[], metavar="FILE", help="a PDF whose pages are images")
    parser.add_argument("--pages", metavar="1-3,7-", help="pages of the PDFs, from one (default: all)")
    parser.add_argument(
        "--video",
        action="append",
        default=[],
        metavar="FILE",
        help="a video, or a directory or quoted pattern of images as its frames ('frames/*.png'); may be repeated",
    )
    parser.add_argument(
        "--fps",
        type=float,
        help="frames a second to take of the videos, or that their images were taken with (default: 2)",
    )
    parser.add_argument(
        "--template-arg",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a variable of the chat template, such as enable_thinking=false; may be repeated",
    )
    parser.add_argument("--max-frames", type=_positive, metavar="N", help="frames of a video at most (default: 768)")


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-new-tokens",
        type=_positive,
        metavar="N",
        help="longest answer (default: 512, or a quarter of the length)",
    )
    parser.add_argument("--temperature", type=float, metavar="T", help="0 is greedy (default)")
    parser.add_argument("--top-p", type=float, metavar="P", help="keep the likeliest tokens of this mass (default: 1)")
    parser.add_argument("--top-k", type=int, metavar="K", help="0 keeps all tokens (default)")
    parser.add_argument(
        "--min-p", type=float, metavar="P", help="keep tokens this many times as likely as the likeliest (default: 0)"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="makes sampling repeatable")
    parser.add_argument(
        "--repetition-penalty", type=float, metavar="F", help="divide logits of tokens that occurred (default: 1)"
    )
    parser.add_argument(
        "--no-repeat-ngram-size", type=int, metavar="N", help="no run of N tokens occurs twice (default: 0, any may)"
    )
    _add_generation_config(parser)
    parser.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="end the answer before this text; may be repeated"
    )
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="end the answer after this time")


def _add_generation_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--use-generation-config",
        action="store_true",
        help="sampling and penalties as the checkpoint recommends, see `inspect`; other options go before it",
    )
