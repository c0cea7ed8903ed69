"""Calibration sets: a directory of images, and `labels.jsonl` with prompts and answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from qvl_runtime.bundle import sha256

from ...common.labels import Label, image_path
from ...common.progress import Report
from .page_question import DEFAULT_TASK, Origin, Question


@dataclass(frozen=True)
class LabeledSet:
    """A set as a source of questions, one per line of its labels."""

    name: str
    directory: Path
    labels: tuple[Label, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def questions(self, chosen: Sequence[int], leave_out: Report, dpi: int) -> Iterator[Question]:
        """Yields the chosen questions; an image with several of them is hashed once."""
        origins: dict[str, Origin] = {}
        for index in chosen:
            label = self.labels[index]
            if label.image not in origins:
                file = image_path(self.directory, index, label)
                origins[label.image] = Origin(file, f"{self.name}/{label.image}", sha256(file))
            origin, task = origins[label.image], label.task or DEFAULT_TASK
            yield Question(origin, origin.file, label.prompt, tuple(label.answers), task, label.kind)
