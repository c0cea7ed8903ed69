"""Pages of mapped files are freed, and only those that the file has."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import pytest

from qvl_runtime._onnxruntime import mapped_files
from qvl_runtime._onnxruntime.mapped_files import free_pages
from qvl_runtime.bundle import read_manifest
from qvl_runtime.sessions import open_engine

SIZE = 1 << 20
BUNDLE = Path(__file__).parents[1] / "checkpoints" / "bundles" / "v6"
linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is freed")


def mapped(path: Path) -> mmap.mmap:
    """A private, writable map of a new file, with all of its pages, as ONNX Runtime makes them."""
    path.write_bytes(b"weights." * (SIZE // 8))
    with path.open("rb") as file:
        found = mmap.mmap(file.fileno(), SIZE, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
    assert found[:] == path.read_bytes()
    return found


@linux
def test_pages_are_freed_and_read_again(tmp_path: Path) -> None:
    found = mapped(tmp_path / "a file")
    assert free_pages(tmp_path) == SIZE
    assert free_pages(tmp_path) == 0
    assert found[:8] == b"weights."
    assert 0 < free_pages(tmp_path) < SIZE


@linux
def test_a_changed_part_and_files_elsewhere_are_left(tmp_path: Path) -> None:
    inside, outside = tmp_path / "bundle", tmp_path / "bundle of another"
    inside.mkdir(), outside.mkdir()
    changed, other = mapped(inside / "changed"), mapped(outside / "other")
    changed[:7] = b"changed"
    assert free_pages(inside) == 0 and changed[:8] == b"changed."
    assert free_pages(outside) == SIZE == len(other)


@linux
def test_a_loaded_bundle_holds_no_pages_of_its_files() -> None:
    engine = open_engine(BUNDLE, read_manifest(BUNDLE), 1)
    assert free_pages(BUNDLE) == 0
    engine.close()


def test_nothing_is_freed_where_the_system_does_not_say_what_is_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped_files, "SMAPS", tmp_path / "smaps")
    assert free_pages(tmp_path) == 0
