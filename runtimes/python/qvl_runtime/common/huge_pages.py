"""Gathers memory that loading has filled in huge pages, so that weights are read with fewer translations of addresses.

Every token of an answer reads all weights of the language model, and with pages of 4 KiB the processor looks up a
hundred thousand addresses for that. It takes up to a third of the time where memory is fragmented (docs/benchmarks.md,
Huge pages). A thread does it after loading, since it takes a second or two on some machines. Only on Linux 6.1 and
newer, and not where the system's setting is "never"; elsewhere nothing is done.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
import threading
from collections.abc import Iterator
from pathlib import Path

from .log import log, timed

SMAPS = Path("/proc/self/smaps")
SETTINGS = Path("/sys/kernel/mm/transparent_hugepage")
COLLAPSE = 25
"""Linux's MADV_COLLAPSE: copies the pages of a range into huge ones."""
FILLED = 0.9
"""The share of a part of memory that has to be in use: the rest would be filled."""
_PART = re.compile(rb"^([0-9a-f]+)-([0-9a-f]+) rw-p 0+ 00:00 0 +(?:\[heap\])?\n((?:[A-Z].*\n)+)", re.MULTILINE)
_RESIDENT = re.compile(rb"Rss: +(\d+) kB")


@contextlib.contextmanager
def for_new_memory() -> Iterator[None]:
    """Starts gathering what was allocated and filled in the `with` block, in a thread that nothing waits for."""
    size = huge_page()
    before = numbers(size, 0) if size else set()
    yield
    if size:
        threading.Thread(target=gather, args=(size, before), name="huge pages", daemon=True).start()


def huge_page() -> int:
    """Returns the bytes of a huge page, or 0 where there are none, or where they are not wanted."""
    try:
        wanted = "[never]" not in (SETTINGS / "enabled").read_text()
        return int((SETTINGS / "hpage_pmd_size").read_text()) if wanted else 0
    except (OSError, ValueError):
        return 0


def gather(size: int, before: set[int]) -> int:
    """Gathers filled memory in huge pages of `size` bytes but for those numbered in `before`; returns their bytes."""
    try:
        advise = ctypes.CDLL(None).madvise
    except (OSError, AttributeError, TypeError):  # not Linux
        return 0
    with timed(log, "memory gathered in huge pages"):
        pages = sorted(numbers(size, FILLED) - before)
        done = [not advise(ctypes.c_void_p(page * size), ctypes.c_size_t(size), COLLAPSE) for page in pages]
    return sum(done) * size


def numbers(size: int, filled: float) -> set[int]:
    """Returns the numbers of the huge pages that lie within private memory of which a share is `filled`."""
    try:
        parts = list(_PART.finditer(SMAPS.read_bytes()))
    except OSError:
        return set()
    found: set[int] = set()
    for part in parts:
        start, end, resident = int(part[1], 16), int(part[2], 16), int(_RESIDENT.findall(part[3])[0]) * 1024
        if resident >= filled * (end - start):
            found.update(range(-(-start // size), end // size))
    return found
