"""An evaluation set: a directory with images and `labels.jsonl`, one line per question, read as a stream."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...common.labels import LABELS, Label, image_path, line_name, read_labels
from ...errors import ExportError
from ..metrics.scores import TASKS, truth_problem

CHUNK = 1 << 17


@dataclass(frozen=True)
class Item:
    """A question about a page; `index` is its 0-based line in the set. Losses are grouped by the label's `kind`."""

    index: int
    image: Path
    label: Label


@dataclass(frozen=True)
class EvalSet:
    """A checked set: `total` lines, of which `chosen` are asked (all if None), and a digest of its labels."""

    directory: Path
    total: int
    digest: str
    chosen: tuple[int, ...] | None = None

    @property
    def count(self) -> int:
        return self.total if self.chosen is None else len(self.chosen)

    def items(self) -> Iterator[Item]:
        """Yields the chosen items in order, with one line in memory at a time."""
        wanted = None if self.chosen is None else frozenset(self.chosen)
        for index, label in checked_labels(self.directory):
            if wanted is None or index in wanted:
                yield Item(index, self.directory / label.image, label)

    def tasks(self) -> frozenset[str]:
        """Returns the tasks of the chosen items."""
        return frozenset(item.label.task for item in self.items())

    def subset(self, count: int, seed: int = 0) -> EvalSet:
        """Draws at most `count` items with a seed: labels often repeat in a pattern that even steps would follow."""
        if count >= self.count:
            return self
        lines = range(self.total) if self.chosen is None else self.chosen
        drawn = np.random.default_rng(seed).choice(len(lines), count, replace=False)
        return EvalSet(self.directory, self.total, self.digest, tuple(sorted(lines[i] for i in drawn.tolist())))


def open_set(directory: Path, limit: int | None = None) -> EvalSet:
    """Checks every line of a set, and that its images exist.

    Raises ExportError with file and line.
    """
    digest, total = hashlib.sha256(), 0
    for index, label in checked_labels(directory):
        image_path(directory, index, label)
        total += 1
    with (directory / LABELS).open("rb") as file:
        while piece := file.read(CHUNK):
            digest.update(piece)
    whole = EvalSet(directory, total, digest.hexdigest())
    return whole if limit is None else whole.subset(limit)


def checked_labels(directory: Path) -> Iterator[tuple[int, Label]]:
    """Yields index and label of every line; raises ExportError with file and line for those that cannot be scored."""
    for index, label in read_labels(directory):
        if problem := check(label):
            raise ExportError(problem, where=line_name(directory, index))
        yield index, label


def check(label: Label) -> str:
    """Returns why a label cannot be scored; empty if it can."""
    if problem := label.problem():
        return problem
    if not label.task:
        return f"needs a task: {', '.join(TASKS)}"
    if label.task not in TASKS:
        return f"task {label.task!r} is not one of {', '.join(TASKS)}"
    if not label.prompt.strip() or not label.answers:
        return "needs a prompt and at least one answer"
    for answer in label.answers:
        if problem := truth_problem(label.task, answer):
            return f"an answer is not what task {label.task} takes{problem}: {answer[:60]!r}"
    return ""
