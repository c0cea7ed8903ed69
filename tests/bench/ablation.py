"""The benefit of each part of quantization for the reference checkpoint, on held-out pages it was not calibrated on.

python -m tests.bench.ablation [PAGES] [SAMPLES]

Two tables. Rotation in each precision, also of the outlier twin, whose norms have gains of a few channels × 50. Then
rounding to nearest, GPTQ and rotation, calibrated on text, on noise and on documents.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

from qvl_export import ExportPlan, export
from qvl_export.common.kl import divergence, log_softmax
from qvl_export.qtensor import QTensor, QuantFormat
from qvl_export.quant.gptq.solver import round_to_nearest
from qvl_export.quant.schemes import int4
from qvl_runtime.model import Model, load
from tests.bench.quantization import CALIBRATION, LIMIT
from tests.heldout import character_error_rate, items
from tests.oracles.tiny import REFERENCE
from tests.plans import export_plan
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
        """Mean KL(fp16 ‖ model) along the answers of fp16, how often both have the same top token, and CER."""
        pairs = list(zip(self.expected, self._distributions(model), strict=True))
        kl = np.concatenate([divergence(p, q) for p, q in pairs]).mean()
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


class Experiments:
    """Exports in a scratch directory and their results, each computed once."""

    def __init__(self, held: Held, directory: Path, samples: int) -> None:
        self.held, self.directory, self.samples = held, directory, samples
        self.sets = {kind: like_documents(directory / kind, kind) for kind in ("text", "noise")}
        self.checkpoints = {"reference": REFERENCE, "outlier twin": twin(directory / "twin")}
        self.measure = cache(self._measure)

    def _measure(self, checkpoint: str, block: int | None, rotate: bool, kind: str, learns: bool) -> list[str]:
        """Of int4 language models in blocks of `block`, or of int8 in both towers if it is None."""
        precision: dict[str, Any] = {"llm_precision": "int4", "block_size": block} if block else {"precision": "int8"}
        plan = export_plan(
            self.checkpoints[checkpoint],
            self.directory / "b",
            calib=self.sets.get(kind, CALIBRATION),
            samples=self.samples if learns else 1,
            rotate=rotate,
            force=True,
            **precision,
        )
        with patch.object(int4, "gptq", int4.gptq if learns else _nearest):
            export(plan)
        return self.held.measure(load(self.directory / "b", threads=2))


def _nearest(weight: np.ndarray, _: np.ndarray, format: QuantFormat) -> QTensor:
    """Instead of GPTQ."""
    return round_to_nearest(weight, format)


def rotations(experiments: Experiments) -> Table:
    """A row a checkpoint and precision, with and without rotation."""
    table = Table("checkpoint", "precision", "rotated", "KL to fp16", "same top", "CER", box=None)
    cases = product(experiments.checkpoints, (None, *BLOCKS), (False, True))
    for checkpoint, block, rotate in track(list(cases)):
        precision = f"int4, block {block}" if block else "int8"
        found = experiments.measure(checkpoint, block, rotate, "documents", True)
        table.add_row(checkpoint, precision, "yes" if rotate else "no", *found)
    return table


def methods(experiments: Experiments) -> Table:
    """A row a method, calibration and block size; rounding to nearest knows nothing of pages."""
    table = Table("method", "calibrated on", "block", "KL to fp16", "same top", "CER", box=None)
    cases = [(False, rotate, "-", block) for rotate, block in product((False, True), BLOCKS)]
    cases += list(product((True,), (False, True), (*experiments.sets, "documents"), BLOCKS))
    for learns, rotate, kind, block in track(cases):
        method = ("GPTQ" if learns else "RTN") + (" + rotation" if rotate else "")
        found = experiments.measure("reference", block, rotate, kind, learns)
        table.add_row(method, kind, str(block), *found)
    return table


def main(pages: int = 60, samples: int = 24) -> Iterator[Table]:
    """The two tables."""
    with tempfile.TemporaryDirectory() as directory:
        experiments = Experiments(Held(pages, Path(directory)), Path(directory), samples)
        yield rotations(experiments)
        yield methods(experiments)


if __name__ == "__main__":
    for found in main(*map(int, sys.argv[1:3])):
        Console(width=110).print(found)
