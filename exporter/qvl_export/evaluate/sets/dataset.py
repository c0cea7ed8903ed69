"""An evaluation set: a directory with images and `labels.jsonl`, one line per question, read as a stream."""

from __future__ import annotations

import codecs
import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from qvl_runtime.common.files import read_lines

from ...common.portable_paths import is_inside, with_slashes
from ...errors import ExportError
from ..metrics.scores import TASKS, truth_problem

LABELS = "labels.jsonl"
CHUNK = 1 << 17


class Label(msgspec.Struct, frozen=True):
    """A line of `labels.jsonl`; `kind` is the sort of document, by which losses are grouped."""

    image: str
    prompt: str
    task: str
    answers: list[str]
    kind: str = "document"


@dataclass(frozen=True)
class Item:
    """A question about a page; `index` is its 0-based line in the set."""

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
        for index, label in read_labels(self.directory):
            if wanted is None or index in wanted:
                yield Item(index, self.directory / label.image, label)

    def tasks(self) -> frozenset[str]:
        """Returns the tasks of the chosen items."""
        return frozenset(item.label.task for item in self.items())

    def subset(self, count: int, seed: int = 0) -> EvalSet:
        """Draws at most `count` items with a seed: labels often repeat in a pattern that even steps would follow."""
        if count >= self.count:
            return self
        places = range(self.total) if self.chosen is None else self.chosen
        drawn = np.random.default_rng(seed).choice(len(places), count, replace=False)
        return EvalSet(self.directory, self.total, self.digest, tuple(sorted(places[i] for i in drawn.tolist())))


def open_set(directory: Path, limit: int | None = None) -> EvalSet:
    """Checks every line of a set, and that its images exist.

    Raises ExportError with file and line.
    """
    path, digest, total = directory / LABELS, hashlib.sha256(), 0
    for index, label in read_labels(directory):
        if not (directory / label.image).is_file():
            raise ExportError(f"there is no image {label.image}", where=f"{path}:{index + 1}")
        total += 1
    if not total:
        raise ExportError("is empty", where=path)
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            digest.update(piece)
    whole = EvalSet(directory, total, digest.hexdigest())
    return whole if limit is None else whole.subset(limit)


def read_labels(directory: Path) -> Iterator[tuple[int, Label]]:
    """Yields index and label of every line; raises ExportError with file and line for malformed ones."""
    path = directory / LABELS
    if not path.is_file():
        fix = "make one with `qvl-export eval build`, see docs/report.md"
        raise ExportError(f"has no {LABELS}", where=directory, fix=fix)
    with contextlib.closing(read_lines(path, ExportError)) as lines:
        for index, line in enumerate(lines):
            try:
                label = msgspec.json.decode(line if index else line.removeprefix(codecs.BOM_UTF8), type=Label)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                raise ExportError(f"is malformed: {error}", where=f"{path}:{index + 1}") from error
            label = msgspec.structs.replace(label, image=with_slashes(label.image, directory))
            if problem := check(label):
                raise ExportError(problem, where=f"{path}:{index + 1}")
            yield index, label


def check(label: Label) -> str:
    """Returns what is wrong with a label; empty if nothing is."""
    if not is_inside(label.image):
        return f"image {label.image!r} is not inside the set"
    if label.task not in TASKS:
        return f"task {label.task!r} is not one of {', '.join(TASKS)}"
    if not label.prompt.strip() or not label.answers:
        return "needs a prompt and at least one answer"
    for answer in label.answers:
        if problem := truth_problem(label.task, answer):
            return f"an answer is not what task {label.task} takes{problem}: {answer[:60]!r}"
    return ""
