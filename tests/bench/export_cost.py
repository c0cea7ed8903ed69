"""Time and peak memory of an export, against copying the same bytes, in one run.

    python -m tests.bench.export_cost [SHAPE] [REPEAT]

The copy is `cp` of the checkpoint and a sync; both sides write what they write to the same disk, in turn.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .random_checkpoint import make

EXPORT = """
import json, re, sys, time
began = time.perf_counter()
from qvl_export import ExportPlan, export
export(ExportPlan(sys.argv[1], sys.argv[2], precision="fp16"))
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
print(json.dumps({"seconds": time.perf_counter() - began, "peak_mib": peak}))
"""


def copy_seconds(source: Path, target: Path) -> float:
    began = time.perf_counter()
    subprocess.run(["cp", "-r", str(source), str(target)], check=True)
    os.sync()
    seconds = time.perf_counter() - began
    shutil.rmtree(target)
    return seconds


def export_cost(source: Path, target: Path) -> dict[str, float]:
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", EXPORT, str(source), str(target)], check=True, capture_output=True)
    os.sync()
    cost: dict[str, float] = json.loads(done.stdout)
    cost["seconds"] = time.perf_counter() - began
    shutil.rmtree(target)
    return cost


def main(shape: str = "qwen2.5-vl-3b", repeat: int = 3) -> dict[str, float]:
    """Medians of copy and export seconds, their ratio, and the export's peak resident memory in MiB."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("QVL_BENCH_DIR")) as directory:
        source = make(shape, Path(directory) / "checkpoint")
        size = sum(file.stat().st_size for file in source.iterdir())
        os.sync()
        copies, exports = [], []
        for _ in range(repeat):
            copies.append(copy_seconds(source, Path(directory) / "copy"))
            exports.append(export_cost(source, Path(directory) / "bundle"))
    copied = statistics.median(copies)
    exported = statistics.median(cost["seconds"] for cost in exports)
    return {
        "checkpoint_gb": round(size / 1e9, 2),
        "copy_seconds": round(copied, 1),
        "export_seconds": round(exported, 1),
        "ratio": round(exported / copied, 2),
        "peak_mib": round(max(cost["peak_mib"] for cost in exports), 0),
    }


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:2], *map(int, sys.argv[2:3])), indent=1))
