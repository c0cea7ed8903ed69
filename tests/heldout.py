"""The held-out pages of the reference checkpoint's kind, and the scores of answers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rapidfuzz.distance import Levenshtein

from qvl_export.common.kl import divergence as kl
from qvl_export.common.kl import log_softmax
from qvl_runtime.model import Model

HELDOUT = Path(__file__).parents[1] / "calib_data" / "heldout"


@dataclass(frozen=True)
class Item:
    """One question about one page."""

    image: Path
    prompt: str
    task: str
    answer: str

    @property
    def messages(self) -> list[dict[str, Any]]:
        parts = [{"type": "image", "image": str(self.image)}, {"type": "text", "text": self.prompt}]
        return [{"role": "user", "content": parts}]


def items(task: str | None = None, pages: int | None = None) -> Iterator[Item]:
    """Questions of a task about the first `pages` pages."""
    seen: set[str] = set()
    for line in (HELDOUT / "labels.jsonl").read_text("utf-8").splitlines():
        label = json.loads(line)
        seen.add(label["image"])
        if pages is not None and len(seen) > pages:
            return
        if task in (None, label["task"]):
            yield Item(HELDOUT / label["image"], label["prompt"], label["task"], label["answers"][0])


def first_pages(directory: Path, pages: int, kind: Callable[[str], str] | None = None) -> Path:
    """Makes `directory` a set: the first held-out pages and their questions, of the `kind` of each image."""
    every = [json.loads(line) for line in (HELDOUT / "labels.jsonl").read_text("utf-8").splitlines()]
    labels = [label for label in every if label["image"] < f"simple_{pages:04}"]
    for label in labels:
        shutil.copyfile(HELDOUT / label["image"], directory / label["image"])
        if kind is not None:
            label["kind"] = kind(label["image"])
    (directory / "labels.jsonl").write_text("".join(json.dumps(label) + "\n" for label in labels), "utf-8")
    return directory


def character_error_rate(answers: list[str], truths: list[str]) -> float:
    """Edits over reference length, micro-averaged."""
    edits = sum(Levenshtein.distance(answer, truth) for answer, truth in zip(answers, truths, strict=True))
    return edits / sum(map(len, truths))


def divergence(reference: Model, other: Model, pages: Sequence[Item] | None = None) -> float:
    """Mean KL of next-token distributions along true answers, by default of twelve pages."""
    found = []
    for item in list(items("ocr"))[100:112] if pages is None else pages:
        p, q = (log_softmax(model.logits(item.messages, item.answer)) for model in (reference, other))
        found.append(kl(p, q))
    return float(np.concatenate(found).mean())
