"""The runtime for the web beside the Python runtime and transformers.js, on one bundle.

    python -m tests.bench.web_speed [--shape qwen2-vl-2b] [--layers 4] [--rounds 3] [--tokens 12] [--size 448x560]

An int4 bundle of random weights with `--layers` vision blocks and as many decoder layers, as WebAssembly takes minutes
for a whole one. Every side is a process that stays; they take turns, and figures are medians. transformers.js gets the
same operators and weights in its own layout, and is installed with npm (without scripts) where QVL_BENCH_DIR points;
`npm ci` and `npx tsc` must have run in runtimes/web.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from qvl_runtime.bundle import read_manifest
from qvl_runtime.positions import Grid
from tests.plans import export_plan

from . import transformers_js
from .random_bundle import export_random
from .random_checkpoint import make
from .run_speed import cpu

PACKAGE = "@huggingface/transformers@4.3.2"
HERE, WEB = Path(__file__).parent, Path(__file__).parents[2] / "runtimes" / "web"
TEXT = "Read the text."
Figures = dict[str, Any]


class Side:
    """A process that answers once for every line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._line()

    def answer(self) -> Figures:
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        found: Figures = json.loads(self._line())
        return found

    def _line(self) -> str:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args!r} ended")
        return line


@contextmanager
def side(command: list[str]) -> Iterator[Side]:
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Side(process)


def installed(cache: Path) -> Path:
    """The folder of transformers.js."""
    folder = cache / "transformers_js"
    if not (folder / "node_modules").exists():
        folder.mkdir(exist_ok=True)
        subprocess.run(["npm", "install", "--ignore-scripts", "--no-audit", PACKAGE], cwd=folder, check=True)
    return folder


def commands(bundle: Path, model: Path, cache: Path, question: list[str], tokens: int) -> dict[str, list[str]]:
    """The command of every side."""
    asked = [str(tokens), TEXT, *question]
    found = {"Python": [sys.executable, "-m", "tests.bench.web_speed_python", str(bundle), "2", *asked]}
    web = ["node", str(WEB / "build" / "test" / "speed.js"), str(bundle)]
    for threads in ("1", "2"):
        found[f"WebAssembly, {threads} threads"] = [*web, "wasm", threads, *asked]
    found["Node.js"] = [*web, "node", "2", *asked]
    script = str(HERE / "run_transformers_js.mjs")
    found["transformers.js, Node.js"] = ["node", script, str(installed(cache)), str(model), "2", *asked]
    return found


def medians(found: Mapping[str, list[Figures]]) -> dict[str, Figures]:
    """Seconds until the first token, tokens per second after it, and both as ratios to Python."""
    rows: dict[str, Figures] = {}
    for name, answers in found.items():
        first = statistics.median(answer["first"] for answer in answers)
        speed = statistics.median((len(answer["tokens"]) - 1) / answer["rest"] for answer in answers)
        rows[name] = {"first_seconds": first, "tokens_per_second": speed, "prompt": answers[0]["prompt"]}
    base = rows["Python"]
    for name, row in rows.items():
        row["first_times_python"] = row["first_seconds"] / base["first_seconds"]
        row["speed_times_python"] = row["tokens_per_second"] / base["tokens_per_second"]
        row["same_tokens"] = found[name][0]["tokens"] == found["Python"][0]["tokens"]
    return rows


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="qwen2-vl-2b")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=12)
    parser.add_argument("--size", default="448x560", help="of the page, whole patches")
    options = parser.parse_args(arguments)
    cache = Path(os.environ.get("QVL_BENCH_DIR", tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(dir=cache) as directory, ExitStack() as stack:
        asked = prepared(Path(directory), cache, options)
        sides = {name: stack.enter_context(side(command)) for name, command in asked.items()}
        found: dict[str, list[Figures]] = {name: [] for name in sides}
        for _ in range(options.rounds + 1):
            for name, answering in sides.items():
                found[name].append(answering.answer())
                print(f"{name}: {found[name][-1]}", file=sys.stderr, flush=True)
        for answering in sides.values():
            assert answering.process.stdin
            answering.process.stdin.close()
        rows = medians({name: answers[1:] for name, answers in found.items()})
    return {"cpu": cpu(), **vars(options), "sides": rows}


def prepared(here: Path, cache: Path, options: argparse.Namespace) -> dict[str, list[str]]:
    """Makes the bundle, the page and the layout of transformers.js; the commands of all sides."""
    checkpoint = make(options.shape, here / "checkpoint", layers=options.layers, blocks=options.layers)
    export_random(export_plan(checkpoint, here / "bundle", precision="int4"))
    width, height = map(int, options.size.split("x"))
    np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8).tofile(here / "page.rgb")
    image = read_manifest(here / "bundle").image
    grid = Grid(1, height // image.patch_size, width // image.patch_size)
    model = transformers_js.write(here / "bundle", checkpoint, grid, image, here / "layout")
    question = [str(here / "page.rgb"), str(width), str(height)]
    return commands(here / "bundle", model, cache, question, options.tokens)


if __name__ == "__main__":
    print(json.dumps(main(), indent=1))
