"""What each part of quantization is worth on the reference checkpoint, on held-out pages it was not calibrated on.

python -m tests.bench.ablation [PAGES] [SAMPLES]

Two tables. Rounding, GPTQ and rotation, calibrated on text, on noise and on documents. Then rotation in each precision, also
of the outlier twin, whose norms have gains of a few channels × 50.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

from qvl_export import ExportPlan, export
from qvl_export.quant.gptq import round_to_nearest
from qvl_export.quant.schemes import int4
from qvl_runtime.model import Model, load
from tests.bench.quantization import CALIBRATION, LIMIT
from tests.heldout import character_error_rate, items, log_softmax
from tests.oracles.tiny import REFERENCE
from tests.quant.test_int8 import twin

BLOCKS = (32, 128)
BLANK = (56, 56)
"""Pixels of the page beside which text is calibrated on: four image tokens."""


class Held:
    """Held-out questions, the fp16 bundle's own answers, and its distributions along them."""

    def __init__(self, pages: int, directory: Path) -> None:
        export(ExportPlan(REFERENCE, directory / "fp16"))
        self.reference, self.questions = load(directory / "fp16", threads=2), list(items("ocr", pages))
        self.answers = [self.reference.generate(item.messages, LIMIT) for item in self.questions]
        self.expected = list(self._distributions(self.reference))

    def _distributions(self, model: Model) -> Iterator[np.ndarray]:
        for item, answer in zip(self.questions, self.answers, strict=True):
            if answer:
                yield log_softmax(model.logits(item.messages, answer))

    def measure(self, model: Model) -> list[str]:
        """Mean KL(fp16 ‖ model) along the answers of fp16, how often both favour the same token, and CER."""
        pairs = list(zip(self.expected, self._distributions(model), strict=True))
        kl = np.concatenate([(np.exp(p) * (p - q)).sum(-1) for p, q in pairs]).mean()
        same = np.concatenate([p.argmax(-1) == q.argmax(-1) for p, q in pairs]).mean()
        answers = [model.generate(item.messages, LIMIT) for item in self.questions]
        rate = character_error_rate(answers, [item.answer for item in self.questions])
        return [f"{kl:.4f}", f"{100 * same:.1f} %", f"{100 * rate:.2f} %"]


def like_documents(directory: Path, kind: str) -> Path:
    """The calibration set with its images replaced: by `noise` of the same size, or by a small blank page (`text`)."""
    directory.mkdir()
    rng = np.random.default_rng(0)
    lines = (CALIBRATION / "labels.jsonl").read_text("utf-8").splitlines()
    for number, label in enumerate(map(json.loads, lines)):
        width, height = Image.open(CALIBRATION / label["image"]).size if kind == "noise" else BLANK
        shape = height, width, 3
        pixels = rng.integers(0, 256, shape, np.uint8) if kind == "noise" else np.full(shape, 255, np.uint8)
        Image.fromarray(pixels).save(directory / f"{number}.png", compress_level=1)
        lines[number] = json.dumps({**label, "image": f"{number}.png"})
    (directory / "labels.jsonl").write_text("\n".join(lines), "utf-8")
    return directory


def measured(held: Held, directory: Path, **plan: Any) -> list[str]:
    """What an export comes to."""
    export(ExportPlan(**{"checkpoint": REFERENCE, "calib": CALIBRATION, **plan}, out=directory / "b", force=True))
    return held.measure(load(directory / "b", threads=2))


def methods(held: Held, directory: Path, samples: int) -> Table:
    """A row a method, calibration and block size; rounding to nearest knows nothing of pages."""
    table = Table("method", "calibrated on", "block", "KL to fp16", "same top", "CER", box=None)
    sets = {kind: like_documents(directory / kind, kind) for kind in ("text", "noise")} | {"documents": CALIBRATION}
    cases = [(method, kind, block) for method in METHODS for kind in sets for block in BLOCKS]
    for method, kind, block in track([case for case in cases if METHODS[case[0]][0] or case[1] == "documents"]):
        learns, rotated = METHODS[method]
        with patch.object(int4, "gptq", int4.gptq if learns else lambda weight, _, layout: nearest(weight, layout)):
            plan = {"llm_precision": "int4", "block_size": block, "samples": samples, "rotate": rotated}
            found = measured(held, directory, **plan, calib=sets[kind])
        table.add_row(method, kind if learns else "-", str(block), *found)
    return table


METHODS = {"RTN": (False, False), "RTN + rotation": (False, True), "GPTQ": (True, False), "GPTQ + rotation": (True, True)}
"""Whether it takes in calibration, and whether it rotates."""
nearest = round_to_nearest


def rotations(held: Held, directory: Path, samples: int) -> Table:
    """A row a checkpoint and precision, with and without rotation."""
    table = Table("checkpoint", "precision", "rotated", "KL to fp16", "same top", "CER", box=None)
    checkpoints = {"reference": REFERENCE, "outlier twin": twin(directory / "twin")}
    precisions: dict[str, dict[str, Any]] = {"int8": {"precision": "int8"}} | {
        f"int4, block {block}": {"llm_precision": "int4", "block_size": block} for block in BLOCKS
    }
    cases = [(name, precision, rotate) for name in checkpoints for precision in precisions for rotate in (False, True)]
    for name, precision, rotate in track(cases):
        plan = {**precisions[precision], "samples": samples, "rotate": rotate}
        found = measured(held, directory, **plan, checkpoint=checkpoints[name])
        table.add_row(name, precision, "yes" if rotate else "no", *found)
    return table


def main(pages: int = 60, samples: int = 24) -> Iterator[Table]:
    """The two tables."""
    with tempfile.TemporaryDirectory() as directory:
        held = Held(pages, Path(directory))
        yield rotations(held, Path(directory), samples)
        yield methods(held, Path(directory), samples)


if __name__ == "__main__":
    for found in main(*map(int, sys.argv[1:3])):
        Console(width=110).print(found)
