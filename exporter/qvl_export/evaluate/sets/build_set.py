"""`eval build`: a labelled set from a user's own pages and a table of truths."""

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

from ...common.atomic_output import Product, writing
from ...errors import ExportError
from .dataset import LABELS, Label, check, with_slashes

COLUMNS = ("image", "prompt", "task", "answer")
OPTIONAL = ("kind",)
MAX_TABLE_BYTES = 1 << 30
DELIMITERS = ",;\t"
"""What spreadsheets put between cells: which one it is, is seen in the first row."""
_SEPARATOR = re.compile(r"sep=(.)\r?\n", re.IGNORECASE)
SET = Product("an evaluation set", (LABELS,))


def build_set(scans: Path, truth: Path, out: Path, force: bool = False) -> dict[str, Any]:
    """Copy the pages that the table names and write their labels; returns counts.

    Raises ExportError naming file and row for anything malformed; nothing is left behind then.
    With `force` a set that is there already is replaced, but never by one made of what lies in it.
    """
    if out.exists() and any(path.resolve().is_relative_to(out.resolve()) for path in (scans, truth)):
        raise ExportError("would take the place of what it is made of", where=out, fix="choose another place")
    with writing(out, force, SET) as beside:
        tasks, images = _fill(beside, scans, truth)
    return {"items": sum(tasks.values()), "images": len(images), "tasks": dict(tasks)}


def _fill(directory: Path, scans: Path, truth: Path) -> tuple[Counter[str], set[str]]:
    tasks: Counter[str] = Counter()
    images: set[str] = set()
    names = {alike(LABELS): LABELS}
    with (directory / LABELS).open("w", encoding="utf-8") as file:
        for label in read_truth(truth, scans):
            if label.image not in images:
                folder = alike(PurePosixPath(label.image).parts[0])
                other = LABELS if folder == alike(LABELS) else names.setdefault(alike(label.image), label.image)
                if other != label.image or other == LABELS:
                    what = f"image {label.image} would take the place of {other}"
                    raise ExportError(what, where=truth, fix="rename it, there and in the table")
                target = directory / label.image
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(scans / label.image, target)
                images.add(label.image)
            file.write(json.dumps(msgspec.to_builtins(label), ensure_ascii=False) + "\n")
            tasks[label.task] += 1
    if not tasks:
        raise ExportError("has no rows", where=truth)
    return tasks, images


def alike(name: str) -> str:
    """The same for names that some file system takes for the same: in other case, or composed otherwise."""
    return unicodedata.normalize("NFC", str(PurePosixPath(name))).casefold()


def read_truth(truth: Path, scans: Path) -> Iterator[Label]:
    """Rows of the CSV as labels; several true answers to a question are several rows that differ in `answer` alone."""
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
    """Line number and cells of each row by the columns' names, in lowercase; raises ExportError if one is missing."""
    head = file.readline()
    told, skipped = _SEPARATOR.fullmatch(head), 1  # as Excel writes and reads it
    if told:
        head, skipped = file.readline(), 2
    delimiter = told[1] if told else max(DELIMITERS, key=head.count)
    names = [name.strip().lower() for name in next(csv.reader([head], delimiter=delimiter), [])]
    if missing := [name for name in COLUMNS if name not in names]:
        fix = f"the first row must name {','.join(COLUMNS)}"
        raise ExportError(f"has no column {', '.join(missing)}", where=truth, fix=fix)
    rows = csv.DictReader(file, names, restkey="more", delimiter=delimiter)
    for row in rows:
        yield skipped + rows.line_num, row


def _label(row: dict[str, Any], where: str, scans: Path) -> Label:
    """A row as a label, its image opened; raises ExportError naming file and line."""
    if "more" in row or any(row[name] is None for name in COLUMNS):
        raise ExportError("has too few or too many cells", where=where, fix="quote cells that contain commas")
    optional = {name: row[name] for name in OPTIONAL if row.get(name)}
    label = with_slashes(Label(row["image"], row["prompt"], row["task"], [row["answer"]], **optional), scans)
    if problem := check(label):
        raise ExportError(problem, where=where)
    if not (scans / label.image).is_file():
        raise ExportError(f"image {label.image} cannot be read: no such file", where=where)
    try:
        check_regular(scans / label.image, MAX_IMAGE_BYTES)
        with Image.open(scans / label.image) as image:
            image.verify()
    except Exception as error:  # Pillow raises types of its own, and bare SyntaxError
        raise ExportError(f"image {label.image} cannot be read: {error}", where=where) from error
    return label
