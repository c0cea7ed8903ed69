"""Calibration sets: a directory of images, and `labels.jsonl` with prompts and answers."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from qvl_runtime.bundle import sha256
from qvl_runtime.common.files import read_lines

from ...common.portable_paths import is_inside, with_slashes
from ...common.progress import Report
from ...errors import ExportError
from .page_question import Origin, Question

LABELS = "labels.jsonl"


class Label(msgspec.Struct, kw_only=True):
    """A line of `labels.jsonl`; `answers` is an empty list if the answer is unknown."""

    image: str
    prompt: str
    task: str = "ocr"
    answers: list[str]
    kind: str = "document"


def read_labels(directory: Path) -> list[Label]:
    """Reads the lines of a set; raises ExportError with file and line if one is malformed."""
    path = directory / LABELS
    labels = [
        _label(line if number > 1 else line.removeprefix(codecs.BOM_UTF8), f"{path}:{number}", directory)
        for number, line in enumerate(read_lines(path, ExportError), 1)
    ]
    if not labels:
        raise ExportError("is empty", where=path)
    return labels


def _label(line: bytes, where: str, directory: Path) -> Label:
    try:
        label = msgspec.json.decode(line, type=Label)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ExportError(f"is malformed: {error}", where=where) from error
    label.image = with_slashes(label.image, directory)
    if not is_inside(label.image):
        raise ExportError(f"needs an image inside the set, not {label.image!r}", where=where)
    return label


@dataclass(frozen=True)
class LabelledSet:
    """A set as a source of questions, one per line."""

    name: str
    directory: Path
    labels: tuple[Label, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def questions(self, chosen: Sequence[int], leave_out: Report, dpi: int) -> Iterator[Question]:
        origins: dict[str, Origin] = {}
        for label in (self.labels[index] for index in chosen):
            if label.image not in origins:
                origins[label.image] = self._origin(label.image)
            origin = origins[label.image]
            yield Question(origin, origin.file, label.prompt, tuple(label.answers), label.task, label.kind)

    def _origin(self, image: str) -> Origin:
        file = self.directory / image
        if not file.is_file():
            raise ExportError("no such file", where=file, fix=f"{self.directory / LABELS} names it")
        return Origin(file, f"{self.name}/{image}", sha256(file))
