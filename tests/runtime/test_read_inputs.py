"""Which documents the inputs of `read` name."""

from __future__ import annotations

import os
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from qvl_runtime.errors import MediaError
from qvl_runtime.read.inputs import find_documents


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "scans"
    (folder / "deep").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    for name in ("p10.png", "p2.PNG", "deep/a.tiff", ".hidden/x.png", ".dot.png"):
        Image.new("RGB", (32, 32)).save(folder / name, "PNG")
    for name in ("letter.pdf", "notes.txt", "labels.jsonl"):
        (folder / name).write_bytes(b"x")
    return folder


def found(*names: object) -> list[tuple[str, str]]:
    return [(Path(document.name).name, document.kind) for document in find_documents([str(name) for name in names])]


def test_a_folder_gives_images_and_pdfs_in_natural_order(folder: Path) -> None:
    assert found(folder) == [("a.tiff", "image"), ("letter.pdf", "pdf"), ("p2.PNG", "image"), ("p10.png", "image")]


def test_a_file_is_taken_once_however_often_it_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert found("p10.png", folder / "p10.png", "p*.png", "./p10.png") == [("p10.png", "image")]


def test_files_are_taken_whatever_their_suffix(folder: Path) -> None:
    assert found(folder / "notes.txt", folder / "labels.jsonl") == [
        ("notes.txt", "image"),
        ("labels.jsonl", "requests"),
    ]


def test_a_name_with_brackets_is_a_file_before_it_is_a_pattern(folder: Path) -> None:
    (folder / "p[1].png").write_bytes(b"x")
    assert found(folder / "p[1].png") == [("p[1].png", "image")]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("empty", "is a directory without images and PDFs"),
        ("none/*.png", "matches no file"),
        ("missing.png", "no such file"),
        ("http://host/a.png", "is a URL"),
        ("", "path of an input is empty"),
    ],
)
def test_what_matches_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, problem: str
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MediaError, match=problem):
        find_documents([name])


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="its file names are Unicode")
def test_names_that_are_not_utf_8_are_found(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/p\xff.png"
    with open(path, "wb") as file:
        file.write(b"x")
    assert find_documents([str(tmp_path)])[0].path == os.fsdecode(path)


def test_a_folder_that_cannot_be_read_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refuse(path: str) -> Any:
        if Path(path).name == "deep":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(MediaError, match=r"deep: cannot be read: Permission denied \(make it readable"):
        find_documents([str(folder)])


def test_a_document_takes_little_memory(tmp_path: Path) -> None:
    count = 2_000
    for number in range(count):
        (tmp_path / f"{number}.png").touch()
    tracemalloc.start()
    try:
        documents = find_documents([str(tmp_path)])
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(documents) == count and used / count < 400 + len(str(tmp_path))
