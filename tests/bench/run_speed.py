"""Load, image encoding, prefill and generation of a full-size fp16 bundle on random weights, medians.

    python -m tests.bench.run_speed [SHAPE] [LAYERS] [THREADS]

LAYERS shortens the language model where memory is short: fp16 bundles take twice their file on a CPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from qvl_export import ExportPlan, export

from .random_checkpoint import make

PAGE = 840, 1176  # an A4 page at 100 dpi: 5,040 patches, 1,260 tokens


def main(shape: str = "qwen2-vl-2b", layers: int | None = None, threads: int = 2) -> dict[str, Any]:
    """What `python -m qvl_runtime bench --json` prints for one A4 page at 100 dpi and 32 generated tokens."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("QVL_BENCH_DIR")) as directory:
        source, out, page = make(shape, Path(directory) / "c", layers), Path(directory) / "b", Path(directory) / "p.png"
        export(ExportPlan(source, out, precision="fp16"))
        Image.effect_noise(PAGE, 80).convert("RGB").save(page)
        command = ["-m", "qvl_runtime", "bench", str(out), "Read the text.", "--image", str(page), "--json"]
        done = subprocess.run(
            [sys.executable, *command, "--threads", str(threads)], check=True, capture_output=True, text=True
        )
    result: dict[str, Any] = json.loads(done.stdout)
    return {"shape": shape, "layers": layers or "all", **result}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:2], *map(int, sys.argv[2:4])), indent=1))
