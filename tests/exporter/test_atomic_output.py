"""Files and directories that are whole or not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from qvl_export.common.atomic_output import OutputKind, atomic_file, writing
from qvl_export.errors import OutputError


def test_a_file_is_there_when_it_is_whole(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "a") as file:
        file.write(b"half")
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a").read_bytes() == b"half"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_full_disk_is_named_if_numpy_says_nothing(tmp_path: Path) -> None:
    said = r"/a: cannot be written: 20 requested and 7 written: is the disk full\?"
    with pytest.raises(OutputError, match=said), atomic_file(tmp_path / "a"):
        raise OSError("20 requested and 7 written")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_read_meanwhile_keeps_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="gone"), atomic_file(tmp_path / "a"):
        (tmp_path / "gone").read_bytes()
    assert not list(tmp_path.iterdir())


def test_an_empty_directory_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, box = tmp_path / "out", OutputKind("a box", ("lid",))
    out.mkdir()
    with writing(out, force=False, kind=box) as directory:
        (directory / "lid").write_text("on")
    assert (out / "lid").read_text() == "on"
    with pytest.raises(OutputError, match="already exists"), writing(out, force=False, kind=box):
        pass
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    with pytest.raises(OutputError, match="is the current directory"), writing(here, force=False, kind=box):
        pass
