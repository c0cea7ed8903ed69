"""Pages and requests of documents as tasks."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from PIL import Image

from qvl_runtime.read.inputs import Document, Kind
from qvl_runtime.read.tasks import OpenPdfs, Task, tasks_of


def tasks(path: Path, kind: Kind, pages: str | None = None) -> tuple[list[Task], list[int]]:
    counts: list[int] = []
    return [*tasks_of(Document(str(path), kind), pages, OpenPdfs(), counts.append)], counts


def tiff(path: Path, colors: tuple[str, ...]) -> Path:
    frames = [Image.new("RGB", (32, 32), color) for color in colors]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    return path


def test_pages_of_a_pdf_have_the_hash_of_the_file(pdf: Path) -> None:
    found, counts = tasks(pdf, "pdf", "2-")
    assert [task.page for task in found] == [2, 3] and counts == [2]
    assert {task.sha256 for task in found} == {hashlib.sha256(pdf.read_bytes()).hexdigest()}


def test_frames_of_a_tiff_are_pages(tmp_path: Path) -> None:
    path = tiff(tmp_path / "f.tiff", ("red", "lime", "blue"))
    assert [task.page for task in tasks(path, "image")[0]] == [1, 2, 3]
    assert [task.page for task in tasks(path, "image", "3")[0]] == [3]


def test_pages_do_not_concern_images_of_one_page(tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "p.png")
    assert [task.page for task in tasks(tmp_path / "p.png", "image", "7")[0]] == [1]


def test_what_cannot_be_opened_is_one_task_with_an_error(tmp_path: Path, pdf: Path) -> None:
    broken = tmp_path / "b.png"
    broken.write_bytes(b"no image")
    cut = tmp_path / "cut.pdf"
    cut.write_bytes(pdf.read_bytes()[:99])
    for path, kind, pages in (
        (broken, "image", None),
        (cut, "pdf", None),
        (pdf, "pdf", "9"),
        (tmp_path, "image", None),
    ):
        found, counts = tasks(path, kind, pages)  # type: ignore[arg-type]
        assert len(found) == 1 and counts == [1]
        assert found[0].error and str(path) in found[0].error and found[0].sha256 is None


def test_every_line_is_a_request(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(b'{"a": 1}\n\n  {"b": 2}')
    found, counts = tasks(path, "requests")
    assert [(task.page, task.request, task.index) for task in found] == [
        (1, b'{"a": 1}', None),
        (3, b'{"b": 2}', None),
    ]
    assert counts == [2]
    path.write_bytes(b"\n")
    assert "has no requests" in str(tasks(path, "requests")[0][0].error)


def test_a_pdf_stays_open_until_others_were_used(pdf: Path, tmp_path: Path) -> None:
    pdfs = OpenPdfs(1)
    first = pdfs.get(str(pdf))
    assert pdfs.get(str(pdf)) is first
    other = tmp_path / "other.pdf"
    other.write_bytes(pdf.read_bytes())
    pdfs.get(os.fspath(other))
    assert pdfs.get(str(pdf)) is not first


def test_a_task_opens_the_file_that_was_meant_whatever_the_directory(
    tmp_path: Path, pdf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "r.jsonl").write_bytes(b"{}")
    monkeypatch.chdir(pdf.parent)
    for name, kind in ((pdf.name, "pdf"), (os.path.relpath(tmp_path / "r.jsonl"), "requests"), ("no.png", "image")):
        found = next(tasks_of(Document(name, kind), None, OpenPdfs(), lambda _: None))  # type: ignore[arg-type]
        assert found.file == name and found.path == os.path.join(pdf.parent, name)
