"""Sizes and build times of TensorRT-RTX engines, as a table for docs/benchmarks.md; no GPU is needed.

    python -m tests.bench.engines [SHAPE]

First tiny checkpoints of every family, then one vision block and one decoder layer of SHAPE at full size.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image

from qvl_export import ExportPlan, export
from qvl_export.common.progress import NullProgress
from qvl_runtime.manifest import Manifest
from tests.oracles import tiny
from tests.plans import changed, export_plan

from .random_bundle import export_random
from .random_checkpoint import make

CAPABILITIES = "86,89,120"
PRECISIONS = ("fp16", "int8", "int4")
Row = dict[str, str | float]


class Clock(NullProgress):
    """When each stage began, and the peak memory until then."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, float, float]] = []

    def stage(self, text: str, total: int = 0) -> None:
        self.stages.append((text, time.perf_counter(), peak_mib()))

    def row(self, manifest: Manifest) -> Row:
        """Seconds of building each engine, its size and that of its weights in MB."""
        self.stage("end")
        row: Row = {}
        for (text, began, _), (_, ended, _) in zip(self.stages, self.stages[1:], strict=False):
            if found := re.fullmatch(r"building (\w+)\.engine", text):
                graph = manifest.graphs[found[1]]
                row |= {
                    f"{found[1]} s": round(ended - began, 1),
                    f"{found[1]} MB": round(manifest.files[graph.model].size / 1e6, 1),
                    f"{found[1]} weights MB": round(sum(graph.weight_bytes.values()) / 1e6, 1),
                }
        before = next(peak for text, _, peak in self.stages if text.startswith("building vision.engine"))
        return row | {"peak MiB before": round(before), "peak MiB": round(self.stages[-1][2])}


def peak_mib() -> float:
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


def plan(checkpoint: Path, out: Path, precision: str) -> ExportPlan:
    return export_plan(
        checkpoint, out, target="tensorrt-rtx", precision=precision, compute_capability=CAPABILITIES, max_length=8192
    )


def tiny_rows(work: Path) -> Iterator[Row]:
    page = work / "page.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (112, 168, 3), np.uint8)).save(page)
    for family in tiny.ATTENTION:
        (work / family).mkdir()
        source = tiny.save(tiny.build(family, tiny.SHAPES["small"]), work / family)
        for precision in PRECISIONS:
            asked = plan(source, work / f"{family}-{precision}", precision)
            if precision != "fp16":
                asked = changed(asked, calib=page)
            clock = Clock()
            yield {"checkpoint": f"tiny {family}", "precision": precision, **clock.row(export(asked, clock))}


def layer_row(checkpoint: Path, out: Path, precision: str) -> Row:
    """One export in this process, whose peak memory is measured."""
    clock = Clock()
    return clock.row(export_random(plan(checkpoint, out, precision), clock))


def layer_rows(work: Path, shape: str) -> Iterator[Row]:
    source = make(shape, work / shape, layers=1, blocks=1)
    for precision in PRECISIONS:
        command = [
            sys.executable,
            "-m",
            "tests.bench.engines",
            "--layer",
            str(source),
            str(work / precision),
            precision,
        ]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        yield {"checkpoint": f"{shape}, 1 + 1", "precision": precision, **json.loads(done.stdout)}


def main(shape: str = "qwen2.5-vl-3b") -> None:
    with tempfile.TemporaryDirectory(dir=os.environ.get("QVL_BENCH_DIR")) as directory:
        for index, row in enumerate(chain(layer_rows(Path(directory), shape), tiny_rows(Path(directory)))):
            if index == 0:
                print("| " + " | ".join(row) + " |\n" + "|---" * len(row) + "|")
            print("| " + " | ".join(map(str, row.values())) + " |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--layer"]:
        print(json.dumps(layer_row(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])))
    else:
        main(*sys.argv[1:2])
