"""Pages of mapped files are freed, and only those that the file has."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from qvl_runtime._onnxruntime import mapped_files
from qvl_runtime._onnxruntime.mapped_files import Maps, free_pages
from qvl_runtime.bundle import read_manifest
from qvl_runtime.common import memory_maps
from qvl_runtime.sessions import cpu, engine, open_engine

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


def resident(directory: Path) -> int:
    """Bytes of mapped files in a directory that are in memory."""
    return sum(size for _, _, size in mapped_files._mapped(bytes(directory) + b"/"))


@linux
def test_pages_are_freed_after_the_last_change(tmp_path: Path) -> None:
    """Of whichever thread: a dropped map's addresses may be those of other memory a moment later."""
    found, maps = mapped(tmp_path / "a file"), Maps()
    with maps.change():
        with maps.change():
            other = Thread(target=maps.free_later, args=[tmp_path])
            other.start(), other.join()
        assert resident(tmp_path) == SIZE == len(found)
    assert resident(tmp_path) == 0
    assert found[:8] == b"weights." and resident(tmp_path) > 0
    maps.free_later(tmp_path)
    assert resident(tmp_path) == 0


@linux
def test_a_change_that_fails_ends_too(tmp_path: Path) -> None:
    found, maps = mapped(tmp_path / "a file"), Maps()

    def fail() -> None:
        with maps.change():
            maps.free_later(tmp_path)
            raise MemoryError

    with pytest.raises(MemoryError):
        fail()
    assert resident(tmp_path) == 0 < len(found)


@linux
def test_nothing_is_freed_while_a_session_is_made_or_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, during = mapped(tmp_path / "a file"), list[int]()

    def asking(do: Callable[..., Any]) -> Callable[..., Any]:
        def ask_and_do(*arguments: Any, **options: Any) -> Any:
            assert found[0]
            cpu.maps.free_later(tmp_path)
            during.append(resident(tmp_path))
            return do(*arguments, **options)

        return ask_and_do

    cpu.saturates()  # once per process, by a session of its own
    monkeypatch.setattr(cpu.ort, "InferenceSession", asking(cpu.ort.InferenceSession))
    monkeypatch.setattr(cpu, "end_calls", asking(engine.end_calls))
    open_engine(BUNDLE, read_manifest(BUNDLE), 1).close()
    assert len(during) == 3 and all(during)
    assert resident(tmp_path) == 0


def test_nothing_is_freed_where_the_system_does_not_say_what_is_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_maps, "SMAPS", tmp_path / "smaps")
    assert free_pages(tmp_path) == 0
