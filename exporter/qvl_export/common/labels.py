"""`labels.jsonl`: the questions of an evaluation or calibration set, one line each."""

from __future__ import annotations

import codecs
import contextlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from qvl_runtime.common.files import read_lines

from ..errors import ExportError
from .portable_paths import is_inside, with_slashes

LABELS = "labels.jsonl"


class Label(msgspec.Struct, frozen=True, kw_only=True):
    """A question about the image at the path `image`, relative to its set.

    `task` is empty if the line names none, `answers` if none is known; `kind` is the kind of document.
    """

    image: str
    prompt: str
    task: str = ""
    answers: list[str]
    kind: str = "document"

    def problem(self) -> str:
        """Says what no set can use; empty if there is nothing."""
        return "" if is_inside(self.image) else f"image {self.image!r} is not inside the set"


def read_labels(directory: Path) -> Iterator[tuple[int, Label]]:
    """Yields the index and label of every line, with one line in memory at a time.

    Raises ExportError with file and line number for a malformed line, and if the directory or its file is missing or
    the file is empty.
    """
    check_directory(directory)
    path, empty = directory / LABELS, True
    if not path.is_file():
        fix = "make one with `qvl-export eval build`, see docs/report.md"
        raise ExportError(f"has no {LABELS}", where=directory, fix=fix)
    with contextlib.closing(read_lines(path, ExportError)) as lines:
        for index, line in enumerate(lines):
            yield index, _label(line if index else line.removeprefix(codecs.BOM_UTF8), directory, index)
            empty = False
    if empty:
        raise ExportError("is empty", where=path, fix="give it one line per question")


def check_directory(path: Path) -> None:
    """Raises ExportError if the directory of a set or of its sources does not exist."""
    if not path.is_dir():
        raise ExportError("is not a directory" if path.exists() else "no such directory", where=path)


def image_path(directory: Path, index: int, label: Label) -> Path:
    """Returns the path of a label's image; raises ExportError with file and line number if there is none."""
    path = directory / label.image
    if not path.is_file():
        fix = "add it, or remove the line"
        raise ExportError(f"there is no image {label.image}", where=line_name(directory, index), fix=fix)
    return path


def line_name(directory: Path, index: int) -> str:
    """Names a line of a set in errors, counted from 1."""
    return f"{directory / LABELS}:{index + 1}"


def _label(line: bytes, directory: Path, index: int) -> Label:
    where = line_name(directory, index)
    try:
        label = msgspec.json.decode(line, type=Label)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        fix = "each line is a JSON object with image, prompt, task and answers"
        raise ExportError(f"is malformed: {error}", where=where, fix=fix) from error
    label = msgspec.structs.replace(label, image=with_slashes(label.image, directory))
    if problem := label.problem():
        raise ExportError(problem, where=where, fix=f"give paths relative to {directory}")
    return label
