"""`eval build`: builds a labeled set from a user's own pages and a table of truths."""

from __future__ import annotations

import csv
import json
import re
import shutil
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, TextIO

import msgspec
from PIL import Image

from qvl_runtime.common.files import check_regular
from qvl_runtime.media.images import MAX_IMAGE_BYTES

from ...common.atomic_output import OutputKind, writing
from ...common.labels import LABELS, Label, check_directory
from ...common.portable_paths import with_slashes
from ...errors import ExportError
from .dataset import check

COLUMNS = ("image", "prompt", "task", "answer")
OPTIONAL = ("kind",)
MAX_TABLE_BYTES = 1 << 30
DELIMITERS = ",;\t"
"""Delimiters that spreadsheets use; the most frequent one in the first row is taken."""
_SEPARATOR = re.compile(r"sep=(.)\r?\n", re.IGNORECASE)
SET = OutputKind("an evaluation set", (LABELS,))


def build_set(scans: Path, truth: Path, out: Path, force: bool = False) -> dict[str, Any]:
    """Copies the pages that the table names and writes their labels; returns counts.

    Raises ExportError with file and row for malformed input, and leaves nothing behind.
    `force` replaces an existing set, but never one that contains the sources.
    """
    check_directory(scans)
    if out.exists() and any(path.resolve().is_relative_to(out.resolve()) for path in (scans, truth)):
        raise ExportError("would replace its own sources", where=out, fix="choose another directory")
    with writing(out, force, SET) as beside:
        tasks, images = _fill(beside, scans, truth)
    return {"items": sum(tasks.values()), "images": len(images), "tasks": dict(tasks)}


def _fill(directory: Path, scans: Path, truth: Path) -> tuple[Counter[str], set[str]]:
    tasks: Counter[str] = Counter()
    images: set[str] = set()
    names = {collision_key(LABELS): LABELS}
    with (directory / LABELS).open("w", encoding="utf-8") as file:
        for label in read_truth(truth, scans):
            if label.image not in images:
                reserved = collision_key(PurePosixPath(label.image).parts[0]) == collision_key(LABELS)
                other = LABELS if reserved else names.setdefault(collision_key(label.image), label.image)
                if other != label.image or other == LABELS:
                    what = f"image {label.image} would replace {other}"
                    raise ExportError(what, where=truth, fix="rename the file, and its entry in the table")
                target = directory / label.image
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(scans / label.image, target)
                images.add(label.image)
            file.write(json.dumps(msgspec.to_builtins(label), ensure_ascii=False) + "\n")
            tasks[label.task] += 1
    if not tasks:
        raise ExportError("has no rows", where=truth)
    return tasks, images


def collision_key(name: str) -> str:
    """Returns a key that is equal for names that some file systems do not distinguish: by case or composition."""
    return unicodedata.normalize("NFC", str(PurePosixPath(name))).casefold()


def read_truth(truth: Path, scans: Path) -> Iterator[Label]:
    """Yields the rows of the CSV as labels; consecutive rows that differ only in `answer` become one label."""
    check_regular(truth, MAX_TABLE_BYTES, ExportError)
    with truth.open(newline="", encoding="utf-8-sig") as file:
        pending: Label | None = None
        line = 0
        try:
            for line, row in _rows(file, truth):
                label = _label(row, f"{truth}:{line}", scans)
                if pending and msgspec.structs.replace(label, answers=pending.answers) == pending:
                    pending = msgspec.structs.replace(pending, answers=[*pending.answers, *label.answers])
                    continue
                if pending:
                    yield pending
                pending = label
        except UnicodeDecodeError as error:
            raise ExportError(f"is not UTF-8: {error}", where=truth, fix="save it as CSV UTF-8") from error
        except csv.Error as error:
            raise ExportError(f"is malformed: {error}", where=f"{truth}:{line + 1}") from error
    if pending:
        yield pending


def _rows(file: TextIO, truth: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields each row's line number and its cells by lowercase column name; raises ExportError for missing columns."""
    head = file.readline()
    separator, skipped = _SEPARATOR.fullmatch(head), 1  # as Excel writes and reads it
    if separator:
        head, skipped = file.readline(), 2
    delimiter = separator[1] if separator else max(DELIMITERS, key=head.count)
    names = [name.strip().lower() for name in next(csv.reader([head], delimiter=delimiter), [])]
    if missing := [name for name in COLUMNS if name not in names]:
        fix = f"the first row must name {','.join(COLUMNS)}"
        raise ExportError(f"has no column {', '.join(missing)}", where=truth, fix=fix)
    rows = csv.DictReader(file, names, restkey="more", delimiter=delimiter)
    for row in rows:
        yield skipped + rows.line_num, row


def _label(row: dict[str, Any], where: str, scans: Path) -> Label:
    """Returns a row as a label after verifying its image; raises ExportError with file and line."""
    if "more" in row or any(row[name] is None for name in COLUMNS):
        raise ExportError("has too few or too many cells", where=where, fix="quote cells that contain commas")
    optional = {name: row[name] for name in OPTIONAL if row.get(name)}
    name = with_slashes(row["image"], scans)
    label = Label(image=name, prompt=row["prompt"], task=row["task"], answers=[row["answer"]], **optional)
    if problem := check(label):
        raise ExportError(problem, where=where)
    if not (scans / label.image).is_file():
        raise ExportError(f"image {label.image} cannot be read: no such file", where=where)
    try:
        check_regular(scans / label.image, MAX_IMAGE_BYTES)
        with Image.open(scans / label.image) as image:
            image.verify()
    except Exception as error:  # Pillow raises its own types, and bare SyntaxError
        raise ExportError(f"image {label.image} cannot be read: {error}", where=where) from error
    return label
