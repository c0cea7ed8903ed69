"""Answers in other forms than JSONL: a Markdown or HTML file per document, a CSV table with a schema's fields.

They are made from the file of answers once all pages are read, one record in memory at a time.
"""

from __future__ import annotations

import contextlib
import csv
import html
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ..errors import PromptError
from .answer import unfenced
from .markup import safe_markup
from .tasks import Record

PROMPTS: Mapping[str, str] = {"md": "qwenvl markdown", "html": "qwenvl html"}
"""The prompts by which Qwen3-VL parses documents, as its makers document them."""
JOURNAL = "answers.jsonl"
_FORMULA = re.compile(r"[=+\-@\t\r]")
_NUMBER = re.compile(r"[+-]?(?:\d[\d., ]*%?)?")
_HEAD = """<!DOCTYPE html>
<html><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title></head><body>
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none'; base-uri 'none'"
"""Scripts that a page could have dictated to the model do not run, and nothing is sent or loaded."""


@dataclass(slots=True)
class Answered:
    """The records of one document: its name and the hash of its content in the last of them, and where they are."""

    name: str
    sha256: str | None = None
    places: dict[int, int] = field(default_factory=dict)
    """Page or line (0 for a file that cannot be opened) → place of its record in the file of answers."""

    def add(self, record: Record, place: int) -> None:
        """Takes a record in place of an earlier one of its page, and of all pages if the file has other content now."""
        self.name = record["file"]
        if "line" not in record and (sha256 := record.get("sha256")) is not None:
            if self.sha256 not in (None, sha256):
                self.places.clear()
            self.sha256 = sha256
        self.places[record.get("page", record.get("line")) or 0] = place


def journal_path(out: Path, form: str) -> Path:
    """Returns the file of answers for an output: itself, beside a table, or in the folder of documents."""
    return {"jsonl": out, "csv": out.with_name(f"{out.name}.jsonl")}.get(form, out / JOURNAL)


def check_place(out: Path) -> None:
    """Raises PromptError for a device or a pipe, which writing beside and renaming would replace."""
    if out.exists() and not (out.is_file() or out.is_dir()):
        raise PromptError("is a device or a pipe", where=out, fix="choose another --out")


def check_free(out: Path, form: str) -> None:
    """Raises PromptError for an output that `read` did not write, as its file of answers would show."""
    if journal_path(out, form).exists():
        return
    if form == "csv" and out.exists():
        raise PromptError("exists", where=out, fix="choose another --out, or --force to replace it")
    if form in _WRITERS and out.is_dir() and any(out.iterdir()):
        raise PromptError("is not empty", where=out, fix="choose another --out, or --force to write into it")


def columns_of(schema: Any) -> list[str]:
    """Returns the fields of a schema; raises PromptError if it is not an object with properties."""
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict) or not properties:
        raise PromptError("--format csv needs a --json-schema of an object with properties")
    return [*properties]


def write_table(journal: Path, out: Path, columns: list[str]) -> None:
    """Writes a CSV file with a row per page: file, page, the fields, and what failed."""
    places = {place for document in _answered(journal).values() for place in document.places.values()}
    with _beside(out) as file:
        writer = csv.writer(file)
        writer.writerow(["file", "page", *columns, "error"])
        for place, record in _records(journal):
            if place not in places:
                continue
            value = record.get("json")
            fields = value if isinstance(value, dict) else {}
            problem = record.get("error") or ("" if isinstance(value, dict) else "no JSON object")
            page = record.get("page", record.get("line"))
            cells = (_cell(fields.get(name)) for name in columns)
            writer.writerow([_cell(record["file"]), page, *cells, _cell(problem)])


def _cell(value: Any) -> str:
    """Returns the text of a cell; one that a spreadsheet would compute as a formula gets a `'` before it."""
    if not isinstance(value, str):
        return "" if value is None else json.dumps(value, ensure_ascii=False)
    return f"'{value}" if _FORMULA.match(value) and not _NUMBER.fullmatch(value) else value


def write_documents(journal: Path, out: Path, form: str) -> int:
    """Writes a file per document below `out`, in the folders of the documents; returns how many there are."""
    documents = _answered(journal)
    relative = _relative([*documents])
    for path, document in documents.items():
        written = out / f"{relative[path]}.{form}"
        written.parent.mkdir(parents=True, exist_ok=True)
        with _beside(written) as file, journal.open("rb") as answers:
            _WRITERS[form](file, document.name, _in_order(answers, document))
    return len(documents)


def _answered(journal: Path) -> dict[str, Answered]:
    """Returns the documents by their absolute paths: the same file may have been named in several ways."""
    documents: dict[str, Answered] = {}
    for place, record in _records(journal):
        name = record["file"]
        documents.setdefault(os.path.abspath(name), Answered(name)).add(record, place)
    return documents


def _in_order(answers: IO[bytes], document: Answered) -> Iterator[Record]:
    for _, place in sorted(document.places.items()):
        answers.seek(place)
        yield json.loads(answers.readline())


def _write_markdown(file: IO[str], _: str, records: Iterator[Record]) -> None:
    for index, record in enumerate(records):
        file.write("\n---\n\n" if index else "")
        if (error := record.get("error")) is not None:
            file.write(f"<!-- not read: {_comment(error)} -->\n")
        else:
            file.write(unfenced(record["answer"]).strip() + "\n")


def _write_html(file: IO[str], name: str, records: Iterator[Record]) -> None:
    file.write(_HEAD.format(policy=_POLICY, title=html.escape(name)))
    for record in records:
        if (error := record.get("error")) is not None:
            content = f"<!-- not read: {_comment(error)} -->"
        else:
            content = safe_markup(unfenced(record["answer"])).strip()
        file.write(f'<section data-page="{record.get("page", record.get("line")) or ""}">\n{content}\n</section>\n')
    file.write("</body></html>\n")


_WRITERS: Mapping[str, Callable[[IO[str], str, Iterator[Record]], None]] = {"md": _write_markdown, "html": _write_html}


def _comment(text: str) -> str:
    return text.replace("--", "- -")


def _relative(names: list[str]) -> dict[str, Path]:
    """Returns a path for each absolute one, relative to the folder that all are in."""
    paths = {name: Path(name) for name in names}
    try:
        root = Path(os.path.commonpath([path.parent for path in paths.values()]))
    except ValueError:  # none, or on several drives of Windows
        return {name: Path(*path.parts[1:]) for name, path in paths.items()}
    return {name: path.relative_to(root) for name, path in paths.items()}


def _records(journal: Path) -> Iterator[tuple[int, Record]]:
    with journal.open("rb") as file:
        place = 0
        for line in file:
            yield place, json.loads(line)
            place += len(line)


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[IO[str]]:
    """Opens a text file that is renamed to `path` once complete."""
    beside = path.with_name(f".{path.name}.partial")
    try:
        with beside.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            yield file
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
