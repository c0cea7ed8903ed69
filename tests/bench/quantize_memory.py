"""Peak resident memory and time of quantizing a random checkpoint of a published shape, and where the time goes.

    python -m tests.bench.quantize_memory [SHAPE] [--layers N] [--pages 32] [--precision int4] [--threads 2]
                                          [--max-pixels N] [--no-gptq-experts]

In a process of its own; the peak is VmHWM. `--layers` builds the first N vision blocks and decoder layers only.
Needs about 25 GB of disk at full size where QVL_BENCH_DIR points. Of experts only the first is real, the others are
holes in the checkpoint's files; they are quantized and written like real ones (qwen3-vl-30b-a3b: 60 GB).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from qvl_export import export
from qvl_export.quant.calibration import layerwise as calibrate
from qvl_export.quant.calibration import rtn_tables as rows
from qvl_export.quant.calibration.work_dir import Work
from tests.plans import export_plan

from .random_checkpoint import make
from .run_speed import cpu

INNER = """
import json, sys
from pathlib import Path
from tests.bench.quantize_memory import quantize
source, out, options = sys.argv[1:]
print(json.dumps(quantize(Path(source), Path(out), **json.loads(options))))
"""
CALIBRATION = Path(__file__).parents[2] / "calib_data" / "calibration"
PARTS = {
    "prepare": (Work, "begin"),
    "observe": (calibrate, "collect_statistics"),
    "smooth": (calibrate, "smooth"),
    "quantize": (calibrate, "quantize_linears"),
    "experts": (calibrate, "quantize_experts"),
    "rerun": (Work, "finish"),
    "tables": (rows, "quantize_rows"),
}
"""Which call is which part. `prepare` makes the samples of a tower: images are patchified, for the language model they
are encoded too; `quantize` is GPTQ or rounding; `rerun` makes the inputs of the next stage."""


class Clock:
    """Seconds by tower and part; what is timed inside a timed call counts there only."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.tower = "export"

    def stage(self, text: str, total: int = 0) -> None:
        """As a progress: `calibrating X on …` begins tower X."""
        words = text.split()
        self.tower = words[1] if words[0] == "calibrating" else self.tower
        print(text, file=sys.stderr, flush=True)

    def advance(self, count: int) -> None: ...

    def timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def inner(*arguments: Any, **options: Any) -> Any:
            began, before = time.perf_counter(), sum(self.seconds.values())
            try:
                return call(*arguments, **options)
            finally:
                inside = sum(self.seconds.values()) - before
                self.seconds[f"{self.tower}: {part}"] += time.perf_counter() - began - inside

        return inner

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        with contextlib.ExitStack() as patches:
            for part, (owner, name) in PARTS.items():
                patches.enter_context(mock.patch.object(owner, name, self.timed(part, getattr(owner, name))))
            yield


def quantize(source: Path, out: Path, **plan: Any) -> dict[str, Any]:
    """Export in this process: seconds in all and by part, the peak in MiB, the bundle in MB."""
    clock, began = Clock(), time.perf_counter()
    with clock.running():
        export(export_plan(source, out, calib=CALIBRATION, **plan), clock)
    total = time.perf_counter() - began
    peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert peak is not None
    parts = {name: round(seconds, 1) for name, seconds in clock.seconds.items()}
    parts["the rest, mostly writing"] = round(total - sum(clock.seconds.values()), 1)
    size = sum(file.stat().st_size for file in out.iterdir()) // 1_000_000
    return {"peak_mib": int(peak[1]) // 1024, "bundle_mb": size, "seconds": round(total, 1), "parts": parts}


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", nargs="?", default="qwen2-vl-2b")
    parser.add_argument("--layers", type=int, help="vision blocks and decoder layers (default: all)")
    parser.add_argument("--pages", type=int, default=32)
    parser.add_argument("--precision", default="int4")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--max-pixels", type=int, help="of calibration pages")
    parser.add_argument("--gptq-experts", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=os.environ.get("QVL_BENCH_DIR")) as directory:
        source = make(options.shape, Path(directory) / "checkpoint", options.layers, options.layers, one_expert=True)
        plan = {"samples": options.pages} | {
            name: getattr(options, name) for name in ("precision", "max_pixels", "gptq_experts")
        }
        given = [str(source), str(Path(directory) / "bundle"), json.dumps(plan)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
        done = subprocess.run(
            [sys.executable, "-c", INNER, *given], stdout=subprocess.PIPE, check=True, env=environment
        )
    result: dict[str, Any] = json.loads(done.stdout)
    return {"cpu": cpu(), **vars(options), "layers": options.layers or "all", **result}


if __name__ == "__main__":
    print(json.dumps(main(), indent=1))
