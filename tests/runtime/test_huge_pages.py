"""Memory that was filled meanwhile is gathered in huge pages, and no other."""

from __future__ import annotations

import ctypes
import mmap
import re
import threading
from pathlib import Path

import pytest

from qvl_runtime.common import huge_pages
from qvl_runtime.common.huge_pages import for_new_memory, gather, huge_page

SIZE = huge_page()
PAGES = 4


def settings(here: Path, enabled: str, size: str = "2097152\n") -> Path:
    (here / "enabled").write_text(enabled)
    (here / "hpage_pmd_size").write_text(size)
    return here


def memory(filled: bool = True) -> mmap.mmap:
    """Private memory with room for a few huge pages, in small ones."""
    found = mmap.mmap(-1, (PAGES + 1) * SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    found.madvise(mmap.MADV_NOHUGEPAGE)
    if filled:
        found[:] = b"weights." * (len(found) // 8)
    found.madvise(mmap.MADV_HUGEPAGE)  # as memory that nobody gave an advice for; what is filled stays as it is
    return found


def in_huge_pages(found: mmap.mmap) -> int:
    """The bytes of a map that are in huge pages."""
    start = ctypes.addressof(ctypes.c_char.from_buffer(found))
    for part in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text()):
        first, last = (int(number, 16) for number in part.split()[0].split("-"))
        if first <= start < last:
            return int(re.findall(r"AnonHugePages: +(\d+)", part)[0]) * 1024
    raise AssertionError("not mapped")


def collapses() -> bool:
    """Whether this system gathers memory when it is asked to: Linux 6.1 and newer."""
    if not SIZE:
        return False
    found = memory()
    start = -(-ctypes.addressof(ctypes.c_char.from_buffer(found)) // SIZE) * SIZE
    return not ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(SIZE), huge_pages.COLLAPSE)


supported = pytest.mark.skipif(not collapses(), reason="needs Linux 6.1 and huge pages")


@supported
def test_new_memory_is_gathered_and_keeps_its_content() -> None:
    with for_new_memory():
        found = memory()
    for thread in threading.enumerate():
        if thread.name == "huge pages":
            thread.join()
    assert in_huge_pages(found) >= (PAGES - 1) * SIZE
    assert found[:] == b"weights." * (len(found) // 8)


@supported
def test_memory_of_others_and_empty_memory_are_left() -> None:
    others = memory()
    before = huge_pages.numbers(SIZE, 0)
    empty, new = memory(filled=False), memory()
    assert gather(SIZE, before) >= (PAGES - 1) * SIZE
    assert (in_huge_pages(others), in_huge_pages(empty)) == (0, 0)
    assert in_huge_pages(new) >= (PAGES - 1) * SIZE


def test_the_systems_setting_is_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huge_pages, "SETTINGS", settings(tmp_path, "always [madvise] never\n"))
    assert huge_page() == 2 << 20
    settings(tmp_path, "always madvise [never]\n")
    assert huge_page() == 0


def test_nothing_is_done_without_huge_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huge_pages, "SETTINGS", tmp_path / "missing")
    monkeypatch.setattr(huge_pages, "gather", lambda *_: pytest.fail("gathered"))
    with for_new_memory():
        threads = threading.active_count()
    assert huge_page() == 0 and threading.active_count() == threads
    monkeypatch.setattr(huge_pages, "SMAPS", tmp_path / "smaps")
    assert huge_pages.numbers(2 << 20, 0) == set()


def test_a_failed_load_gathers_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huge_pages, "SETTINGS", settings(tmp_path, "[always] madvise never\n"))
    monkeypatch.setattr(huge_pages, "gather", lambda *_: pytest.fail("gathered"))
    with pytest.raises(OSError, match="no such bundle"), for_new_memory():
        raise OSError("no such bundle")
