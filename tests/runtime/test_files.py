"""Files that a user names: regular ones, up to a bound; everything else is an error in one line."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path

import pytest
from PIL import Image

from qvl_export.common.labels import read_labels
from qvl_export.errors import ExportError
from qvl_export.evaluate.sets.build_set import build_set
from qvl_export.evaluate.sets.dataset import open_set
from qvl_export.quant.calibration_data.selection import select
from qvl_runtime.__main__ import main
from qvl_runtime.common import files
from qvl_runtime.common.files import open_regular, read_file
from qvl_runtime.errors import BundleError, MediaError, QvlError
from tests.conftest import Bundles

LABEL = {"image": "p.png", "prompt": "Read the text.", "task": "ocr", "answers": ["a"]}


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """A named pipe without a writer."""
    os.mkfifo(tmp_path / "pipe.pdf")
    return tmp_path / "pipe.pdf"


def test_a_regular_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"abc")
    assert read_file(path, 3) == read_file(str(path), 9) == b"abc"
    with pytest.raises(MediaError, match=r"a\.txt: is larger than 0 MiB"):
        read_file(path, 2)
    with pytest.raises(BundleError, match=r"a\.txt/b: no such file"):
        read_file(path / "b", 9, BundleError)
    with pytest.raises(MediaError, match="is a directory"):
        read_file(tmp_path, 9)
    with pytest.raises(MediaError, match="no such file"):
        read_file("a\0b", 9)


def test_memory_is_taken_for_what_a_file_has(tmp_path: Path) -> None:
    """And not for as much as it may have: devices do without half a gigabyte."""
    (tmp_path / "a.txt").write_bytes(b"abc")
    tracemalloc.start()
    try:
        assert read_file(tmp_path / "a.txt", 1 << 29) == b"abc"
        assert read_file("/proc/self/status", 1 << 29).startswith(b"Name:")
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_refused_files_are_closed(tmp_path: Path, pipe: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for path in (tmp_path, pipe, Path("/dev/zero"), Path("/dev/null")):
        with pytest.raises(QvlError):
            open_regular(path, 1 << 30)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_that_hides_its_size_is_bounded_all_the_same() -> None:
    assert Path("/proc/self/status").stat().st_size == 0
    with pytest.raises(MediaError, match="is larger than"):
        read_file("/proc/self/status", 100)


@pytest.mark.parametrize("option", ["--image", "--pdf", "--video"])
@pytest.mark.parametrize("name", ["/dev/zero", "pipe.pdf"])
def test_the_command_line_refuses_devices_and_pipes(
    option: str, name: str, pipe: Path, bundle: Bundles, capsys: pytest.CaptureFixture[str]
) -> None:
    path, model = str(pipe.parent / name), str(bundle("qwen2_5_vl", "small", "fp32"))
    capsys.readouterr()
    code = main(["run", model, "Read.", option, path])
    found = capsys.readouterr()
    assert (code, found.out) == (2, "")
    assert found.err == f"error: {path}: is not a regular file (named pipes and devices are not read)\n"


@pytest.mark.parametrize("name", ["/dev/zero", "pipe.pdf"])
def test_calibration_refuses_them_too(name: str, pipe: Path) -> None:
    with pytest.raises(MediaError, match="is not a regular file"):
        select(pipe.parent / name)


def labeled(directory: Path) -> Path:
    """A set whose one image is a pipe."""
    os.mkfifo(directory / "p.png")
    (directory / "labels.jsonl").write_text(json.dumps(LABEL) + "\n")
    return directory


def test_sets_refuse_pipes_for_images_and_labels(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"there is no image p\.png"):
        open_set(labeled(tmp_path))
    with pytest.raises(ExportError, match=r"labels\.jsonl:1: there is no image p\.png"):
        list(select(tmp_path).questions(lambda _: None))
    (tmp_path / "labels.jsonl").unlink()
    os.mkfifo(tmp_path / "labels.jsonl")
    with pytest.raises(ExportError, match=r"has no labels\.jsonl"):
        open_set(tmp_path)


@pytest.mark.parametrize("read", [open_set, lambda directory: list(read_labels(directory))])
def test_a_line_without_end_is_refused(read: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_LINE_BYTES", 1 << 20)
    Image.new("RGB", (8, 8)).save(tmp_path / "p.png")
    (tmp_path / "labels.jsonl").write_bytes(json.dumps(LABEL).encode() + b"\n" + b" " * (2 << 20))
    with pytest.raises(ExportError, match=r"labels\.jsonl:2: a line is longer than 1 MiB"):
        read(tmp_path)  # type: ignore[operator]


def test_tables_and_scans_of_a_set(tmp_path: Path, pipe: Path) -> None:
    table = tmp_path / "truth.csv"
    table.write_text("image,prompt,task,answer\npipe.pdf,Read.,ocr,a\n")
    with pytest.raises(ExportError, match=r"image pipe\.pdf cannot be read: .*(is not a regular file|no such file)"):
        build_set(tmp_path, table, tmp_path / "out")
    for named in (pipe, Path("/dev/zero")):
        with pytest.raises(ExportError, match="is not a regular file"):
            build_set(tmp_path, named, tmp_path / "out")
    assert not (tmp_path / "out").exists()
