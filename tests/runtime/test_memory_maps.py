"""What Linux tells of a process's memory is read as it is written, and advice reaches the system."""

from __future__ import annotations

import ctypes
import mmap
import sys
from pathlib import Path

import pytest

from qvl_runtime.common import memory_maps
from qvl_runtime.common.memory_maps import Advice, mapped_parts

TOLD = b"""55d0a000-55d0b000 rw-p 00000000 00:00 0                          [heap]
Size:                  4 kB
Rss:                   4 kB
VmFlags: rd wr mr mw me ac
7f00a000-7f00c000 rw-p 00000000 00:00 0
Rss:                   8 kB
7f10a000-7f10b000 r--p 00001000 fe:01 42                         /a dir/a file
Rss:                   0 kB
Anonymous:             0 kB
"""
linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems do not say what is mapped")


def test_parts_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "smaps").write_bytes(TOLD)
    monkeypatch.setattr(memory_maps, "SMAPS", tmp_path / "smaps")
    found = [(part.start, part.end, part.rights, part.inode, part.name, dict(part.sizes)) for part in mapped_parts()]
    assert found == [
        (0x55D0A000, 0x55D0B000, b"rw-p", 0, b"[heap]", {b"Size": 4096, b"Rss": 4096}),
        (0x7F00A000, 0x7F00C000, b"rw-p", 0, b"", {b"Rss": 8192}),
        (0x7F10A000, 0x7F10B000, b"r--p", 42, b"/a dir/a file", {b"Rss": 0, b"Anonymous": 0}),
    ]


def test_systems_that_do_not_say_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_maps, "SMAPS", tmp_path / "missing")
    with pytest.raises(OSError, match="missing"):
        list(mapped_parts())


@linux
def test_advice_reaches_the_system() -> None:
    found = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    found[:7] = b"content"
    start = ctypes.addressof(ctypes.c_char.from_buffer(found))
    assert any(part.start <= start < part.end for part in mapped_parts())
    assert Advice().give(start, mmap.PAGESIZE, 4)  # MADV_DONTNEED
    assert found[:7] == bytes(7)
    assert not Advice().give(start + 1, mmap.PAGESIZE, 4)  # not the beginning of a page
