"""Time to the first token with and without blank paper, on real pages.

    python -m tests.bench.prune_speed [PAGES]

Pages of the English and Chinese Guide for Debian Maintainers (digital, 100 dpi, `calib_data/calibration`), read by the
trained checkpoint (Qwen2.5-VL) in fp16 on one thread. Rules take turns page by page, nothing is cached. Printed are
medians over pages of seconds, of their ratio to the whole page, and of the time in which the prompt is built.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from qvl_export import ExportPlan, export
from qvl_runtime.model import Model, load
from tests.bench.quantization import CALIBRATION
from tests.oracles.tiny import REFERENCE

RULES = ("off", "exact", "scan")


def documents(pages: int) -> list[Path]:
    """The first real pages of the calibration set."""
    labels = map(json.loads, (CALIBRATION / "labels.jsonl").read_text("utf-8").splitlines())
    return [CALIBRATION / label["image"] for label in labels if label["kind"] == "document"][:pages]


def first_token(model: Model, page: Path, rule: str) -> tuple[float, float, int, int]:
    """Seconds until the prompt is built and until the first token; image tokens seen and left out."""
    parts = [{"type": "image", "image": page, "prune": rule}, {"type": "text", "text": "Read the text."}]
    model.clear()
    began = time.perf_counter()
    stream = model.stream([{"role": "user", "content": parts}], max_new_tokens=1)
    built = time.perf_counter() - began
    list(stream)
    return built, time.perf_counter() - began, stream.run.counts.image, stream.run.counts.pruned


def main(pages: int = 20) -> dict[str, Any]:
    """Figures by rule."""
    with tempfile.TemporaryDirectory() as directory:
        export(ExportPlan(REFERENCE, Path(directory) / "b"))
        with load(Path(directory) / "b", threads=1) as model:
            rows = [{rule: first_token(model, page, rule) for rule in RULES} for page in documents(pages)]
    return {
        rule: {
            "left_out": round(sum(row[rule][3] for row in rows) / sum(sum(row[rule][2:]) for row in rows), 3),
            "build_seconds": round(statistics.median(row[rule][0] for row in rows), 3),
            "first_token_seconds": round(statistics.median(row[rule][1] for row in rows), 3),
            "times_faster": round(statistics.median(row["off"][1] / row[rule][1] for row in rows), 2),
        }
        for rule in RULES
    }


if __name__ == "__main__":
    print(json.dumps(main(*map(int, sys.argv[1:2])), indent=1))
