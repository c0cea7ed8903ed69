"""Memory of running a bundle: the peak while it is loaded, the memory after that, the peak while it runs.

    python -m tests.bench.run_memory [--blocks N] [--threads 2] [--precisions fp16,int8,int4]

Random weights, as in `run_speed`: a page of 5,040 patches through the vision towers, a prompt of 1,300 tokens and its
answer of 32 through the language model. Every bundle runs three times in a process of its own; megabytes are resident
ones, without what the process took before it opened the bundle.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qvl_export import ExportPlan
from qvl_export.evaluate.answers.peak_memory import PeakMemory

from .random_bundle import export_random
from .random_checkpoint import make
from .run_speed import LLM_SHAPE, VISION_SHAPES, cpu, page_through, read_and_write

INNER = """
import json, sys
from pathlib import Path
from tests.bench.run_memory import run
print(json.dumps(run(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))))
"""
TIMES = 3
PARTS = {"vision": page_through, "llm": read_and_write}


def resident() -> float:
    """Megabytes that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def run(part: str, bundle: Path, threads: int) -> dict[str, int]:
    """In this process: megabytes while the bundle is loaded, once it is, and of its busiest moment after that."""
    before, loading, running = resident(), PeakMemory(), PeakMemory()
    with loading.counting():
        once: Callable[[], object] = PARTS[part](bundle, threads)
    loaded = resident()
    with running.counting():
        for _ in range(TIMES):
            once()
    most = {"loading": loading.megabytes, "loaded": loaded, "running": running.megabytes}
    return {name: round(value - before) for name, value in most.items()}


def measure(part: str, shape: str, options: argparse.Namespace) -> dict[str, Any]:
    """The result of `run` in a process of its own, by precision."""
    found = {}
    with tempfile.TemporaryDirectory(dir=os.environ.get("QVL_BENCH_DIR")) as directory:
        counts = (
            {"layers": 1, "blocks": options.blocks} if part == "vision" else {"layers": options.blocks, "blocks": 1}
        )
        source = make(shape, Path(directory) / "checkpoint", **counts)
        for precision in options.precisions.split(","):
            if part == "vision" and precision == "int4":
                continue  # its tower is that of int8
            bundle = Path(directory) / precision
            export_random(ExportPlan(source, bundle, precision=precision))
            command = [sys.executable, "-c", INNER, part, str(bundle), str(options.threads)]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
            found[precision] = json.loads(done.stdout)
    return found


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, help="vision blocks and decoder layers (default: all)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precisions", default="fp16,int8,int4")
    options = parser.parse_args(arguments)
    parts = [("vision", shape) for shape in VISION_SHAPES] + [("llm", LLM_SHAPE)]
    found = {f"{part} of {shape}": measure(part, shape, options) for part, shape in parts}
    return {"cpu": cpu(), **vars(options), "blocks": options.blocks or "all", **found}


if __name__ == "__main__":
    print(json.dumps(main(), indent=1))
