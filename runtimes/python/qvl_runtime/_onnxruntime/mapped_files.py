"""Frees memory of files that ONNX Runtime has mapped: pages that were read once and may never be read again.

ONNX Runtime maps the weights of a graph. It keeps the map of a table that is both packed for products and looked up row
by row, with all of its pages, of which an answer reads a few. Only on Linux; elsewhere nothing is freed.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from pathlib import Path

SMAPS = Path("/proc/self/smaps")
DONTNEED = 4
"""Linux's MADV_DONTNEED: pages of a mapped file are read again when they are used."""
_PART = re.compile(rb"^([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \S+ +(/.*)\n((?:[A-Z].*\n)+)", re.MULTILINE)
_SIZE = re.compile(rb"(\w+): +(\d+) kB")


def free_pages(directory: Path) -> int:
    """Frees the resident pages of mapped files in a directory, which are read again when used; returns their bytes."""
    try:
        found = list(_mapped(bytes(directory.resolve()) + b"/"))
        advise = ctypes.CDLL(None).madvise
    except (OSError, AttributeError, TypeError, KeyError):  # not Linux
        return 0
    parts = (
        (size, advise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), DONTNEED)) for start, end, size in found
    )
    return sum(size for size, failed in parts if not failed)


def _mapped(directory: bytes) -> Iterator[tuple[int, int, int]]:
    """Yields start, end and resident bytes of each part of a file that is mapped, resident and unchanged.

    A page that was written to is not in the file, so that the parts with one are left out.
    """
    for found in _PART.finditer(SMAPS.read_bytes()):
        if found[3].startswith(directory):
            sizes = {name: int(kilobytes) * 1024 for name, kilobytes in _SIZE.findall(found[4])}
            if sizes[b"Rss"] and not sizes[b"Anonymous"] and not sizes.get(b"Swap", 0):
                yield int(found[1], 16), int(found[2], 16), sizes[b"Rss"]
