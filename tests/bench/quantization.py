"""What int4 costs the reference checkpoint in accuracy, on held-out pages it was not calibrated on.

python -m tests.bench.quantization [PAGES] [CALIBRATION_SET]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from qvl_export import export
from qvl_export.common.kl import divergence, log_softmax
from qvl_runtime.model import Model, load
from tests.heldout import Item, character_error_rate, items
from tests.oracles.tiny import REFERENCE
from tests.plans import export_plan

CALIBRATION = Path(__file__).parents[2] / "calib_data" / "calibration"
LIMIT = 160


def divergences(reference: Model, other: Model, questions: list[Item], answers: list[str]) -> tuple[float, float]:
    """Mean KL(reference ‖ other) along the reference's own answers, and how often both have the same top token."""
    kl, same = [], []
    for item, answer in zip(questions, answers, strict=True):
        if answer:
            p, q = (log_softmax(model.logits(item.messages, answer)) for model in (reference, other))
            kl.append(divergence(p, q))
            same.append(p.argmax(-1) == q.argmax(-1))
    return float(np.concatenate(kl).mean()), float(np.concatenate(same).mean())


def main(pages: int = 100, calib: Path = CALIBRATION) -> Table:
    """A row a precision: size, CER and exact match of reading, KL and same top token against fp16."""
    questions = list(items("ocr", pages))
    truths = [item.answer for item in questions]
    int4: dict[str, Any] = {"llm_precision": "int4", "calib": calib}
    plans = {"fp16": {}} | {f"GPTQ int4, block {size}": {**int4, "block_size": size} for size in (32, 64, 128)}
    table = Table("precision", "MB", "Read CER", "exact", "KL to fp16", "same top", box=None)
    reference: Model | None = None
    own: list[str] = []
    with tempfile.TemporaryDirectory() as directory:
        for number, (name, options) in enumerate(plans.items()):
            manifest = export(export_plan(REFERENCE, Path(directory) / str(number), **options))
            model = load(Path(directory) / str(number), threads=2)
            answers = [model.generate(item.messages, LIMIT) for item in questions]
            reference, own = (reference, own) if reference else (model, answers)
            kl, same = divergences(reference, model, questions, own)
            exact = sum(answer == truth for answer, truth in zip(answers, truths, strict=True))
            size = sum(file.size for file in manifest.files.values()) / 1e6
            rate = f"{100 * character_error_rate(answers, truths):.2f} %"
            table.add_row(name, f"{size:.1f}", rate, f"{exact}/{len(truths)}", f"{kl:.4f}", f"{100 * same:.1f} %")
    return table


if __name__ == "__main__":
    arguments = sys.argv[1:]
    Console(width=110).print(main(int((arguments or ["100"])[0]), *map(Path, arguments[1:2])))
