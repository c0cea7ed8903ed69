"""Memory that was filled meanwhile is gathered in huge pages, and no other."""

from __future__ import annotations

import ctypes
import mmap
import re
from pathlib import Path
from typing import Any

import pytest

from qvl_runtime.common import huge_pages, memory_maps
from qvl_runtime.common.huge_pages import NewMemory, huge_page, numbers
from qvl_runtime.model import load
from qvl_runtime.sessions.cpu import PAYS_AFTER

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


def within(found: mmap.mmap) -> set[int]:
    """The numbers of the huge pages that lie within a map."""
    start = ctypes.addressof(ctypes.c_char.from_buffer(found))
    return set(range(-(-start // SIZE), (start + len(found)) // SIZE))


def collapses() -> bool:
    """Whether this system gathers memory when it is asked to: Linux 6.1 and newer."""
    if not SIZE:
        return False
    found = memory()
    start = -(-ctypes.addressof(ctypes.c_char.from_buffer(found)) // SIZE) * SIZE
    return not ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(SIZE), huge_pages.COLLAPSE)


supported = pytest.mark.skipif(not collapses(), reason="needs Linux 6.1 and huge pages")


def gathered(found: mmap.mmap) -> bool:
    """Whether most of it is in huge pages; skips the test if the system has none left."""
    enough = in_huge_pages(found) >= (PAGES - 1) * SIZE
    if not enough and not collapses():
        pytest.skip("memory is too fragmented")
    return enough


@supported
def test_new_memory_is_gathered_and_keeps_its_content() -> None:
    with NewMemory() as new:
        found = memory()
    thread = new.gather()
    assert thread is not None and new.gather() is None
    thread.join()
    assert found[:] == b"weights." * (len(found) // 8)
    assert gathered(found)


@pytest.mark.skipif(not SIZE, reason="needs huge pages")
def test_memory_of_others_and_empty_memory_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what is asked for: the system may gather any memory by itself."""
    asked: set[int] = set()
    monkeypatch.setattr(huge_pages, "gather", lambda size, pages: asked.update(pages))
    others = memory()
    with NewMemory() as new:
        found = memory()
    with NewMemory() as nothing:  # alone: the system may join neighboring maps
        empty = memory(filled=False)
    later = memory()
    for each in (new, nothing):
        thread = each.gather()
        if thread:
            thread.join()
    assert not asked & (within(others) | within(empty) | within(later))
    assert within(found) <= asked


def test_the_systems_setting_is_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huge_pages, "SETTINGS", settings(tmp_path, "always [madvise] never\n"))
    assert huge_page() == 2 << 20
    settings(tmp_path, "always madvise [never]\n")
    assert huge_page() == 0


def test_nothing_is_done_without_huge_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huge_pages, "SETTINGS", tmp_path / "missing")
    with NewMemory() as new:
        found = bytearray(16 << 20)
    assert huge_page() == 0 and new.gather() is None and len(found) == 16 << 20
    monkeypatch.setattr(memory_maps, "SMAPS", tmp_path / "smaps")
    assert numbers(2 << 20, 0) == set()


@supported
def test_a_failed_load_gathers_nothing() -> None:
    new = NewMemory()

    def load_nothing() -> None:
        with new:
            found.append(memory())
            raise OSError("no such bundle")

    found: list[mmap.mmap] = []
    with pytest.raises(OSError, match="no such bundle"):
        load_nothing()
    assert new.gather() is None and in_huge_pages(found[0]) == 0


@pytest.mark.parametrize("steps", [PAYS_AFTER - 1, PAYS_AFTER])
def test_weights_are_gathered_once_an_answer_is_long(bundle: Any, monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    calls: list[NewMemory] = []
    monkeypatch.setattr(NewMemory, "gather", lambda self: calls.append(self))
    with load(bundle("qwen2_5_vl", "deep", "fp32"), threads=1) as model:
        question = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
        list(model.stream(question, steps + 1, ignore_eos=True))
    assert len(calls) == (steps == PAYS_AFTER)
