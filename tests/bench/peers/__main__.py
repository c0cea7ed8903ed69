"""`make bench-peers`: this project beside other runtimes, each in its own environment and process.

    python -m tests.bench.peers [--shape qwen2-vl-2b] [--layers 8] [--rounds 3] [--threads 2] [--peer NAME] [--growth]

Random weights of published shapes; a page of 1,260 image tokens and an answer of 64. Peers take turns, one run in a
process of its own each, and figures are medians over rounds. Environments and models are made once, below --cache,
where an interrupted build is resumed. Results go to --out after every round: results.json, table.md, a plot per shape.
A peer that cannot be installed, or that refuses the shape, is in the table with its reason.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from . import table
from .checkpoint import SHAPES, checkpoint, pages
from .growth import grow
from .measure import PEERS, machine, ready, row, save, take_turns
from .peer import Peer, Setting
from .plot import svg

CACHE = Path(os.environ.get("QVL_BENCH_DIR") or Path.home() / ".cache" / "qvl-export") / "peers"
TEXT = "Read the text."


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", action="append", choices=SHAPES, help="published shapes (default: all)")
    parser.add_argument("--layers", type=int, default=8, help="layers and vision blocks, 0 for all (default: 8)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=64, help="tokens of the answer")
    parser.add_argument("--peer", action="append", help="only peers whose name begins like this (regular expression)")
    parser.add_argument("--growth", action="store_true", help="also vary pixels, prompt and threads")
    parser.add_argument("--no-install", action="store_true", help="leave out peers whose environment is not there")
    parser.add_argument("--prepare", action="store_true", help="only install and convert, measure nothing")
    parser.add_argument("--before", default="", help="a command put in front of every measured one, such as taskset")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--out", type=Path, default=Path("build/peers"))
    return parser.parse_args(arguments)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def chosen(names: list[str] | None) -> list[Peer]:
    """The peers whose names one of these expressions matches at the start; all without."""
    found = [peer for peer in PEERS if names is None or any(re.match(name, peer.name) for name in names)]
    if not found:
        known = ", ".join(sorted({peer.runtime for peer in PEERS}))
        raise SystemExit(f"error: no peer is called {' or '.join(names or [])}; there are {known}")
    return found


def peaks(threads: int, before: list[str]) -> dict[str, Any]:
    """The machine's peaks, from a process of its own without the caller's limits on threads."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("OPENBLAS", "OMP"))}
    command = [*before, sys.executable, "-m", "tests.bench.peers.peaks", str(threads)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=variables)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure_shape(shape: str, options: argparse.Namespace, results: dict[str, Any]) -> None:
    """Adds one shape's table to the results, and its growth."""
    layers, before = options.layers or None, shlex.split(options.before)
    directory = options.cache / f"{shape}-{options.layers or 'whole'}"
    directory.mkdir(parents=True, exist_ok=True)
    source = checkpoint(shape, directory / "checkpoint", layers)
    images = pages(options.cache / "pages")
    setting = Setting(images, images["warmup"], TEXT, options.tokens, options.threads)
    entries = ready(
        chosen(options.peer),
        source,
        directory / "models",
        options.cache,
        Path(sys.executable),
        not options.no_install,
        say,
    )
    if options.prepare:
        return
    title = f"{shape}, {f'{layers} + {layers} layers' if layers else 'whole'}"
    for _ in take_turns(entries, setting, options.rounds, before, say):
        results["shapes"][title] = [row(entry) for entry in entries]
        write(results, options.out)
    if options.growth:
        results["growth"] = results.get("growth", []) + grow(entries, source, setting, 1, before, say)
        write(results, options.out)


def write(results: dict[str, Any], out: Path) -> None:
    """Writes results.json, table.md, and a plot for each shape."""
    save(results, out)
    (out / "table.md").write_text(table.markdown(results))
    machine = results["machine"]
    for title, rows in results["shapes"].items():
        name = title.replace(", ", "-").replace(" + ", "+").replace(" ", "-")
        heading = f"{title}: {machine['processor']}, {machine['cores']} cores, {machine['date']}"
        (out / f"{name}.svg").write_text(svg(heading, rows))


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    options.cache = options.cache.absolute()
    results: dict[str, Any] = {"machine": machine(), "setting": setting_of(options), "shapes": {}}
    if not options.prepare:
        results["peaks"] = peaks(options.threads, shlex.split(options.before))
    for shape in options.shape or SHAPES:
        measure_shape(shape, options, results)
    if not options.prepare:
        print(table.markdown(results))


def setting_of(options: argparse.Namespace) -> dict[str, Any]:
    names = ("layers", "rounds", "threads", "tokens")
    return {name: getattr(options, name) for name in names}


if __name__ == "__main__":
    main()
