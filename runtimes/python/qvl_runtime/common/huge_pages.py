"""Gathers memory that loading has filled in huge pages, so that weights are read with fewer translations of addresses.

Every token of an answer reads all weights of the language model, and with pages of 4 KiB the processor looks up a
hundred thousand addresses for that. It takes up to a third of the time where memory is fragmented (docs/benchmarks.md,
Huge pages). A thread does it, since it takes a second or two on some machines. Only on Linux 6.1 and newer, and not
where the system's setting is "never"; elsewhere nothing is done.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from pathlib import Path
from typing import Self

from .log import log, timed
from .memory_maps import Advice, mapped_parts

SETTINGS = Path("/sys/kernel/mm/transparent_hugepage")
COLLAPSE = 25
"""Linux's MADV_COLLAPSE: copies the pages of a range into huge ones."""
REST = 9
"""Times as long as gathering a page took: a tenth of one core works on it."""
FILLED = 0.9
"""The share of a part of memory that has to be in use: the rest would be filled."""


class NewMemory:
    """What is allocated and filled in a `with` block."""

    def __init__(self) -> None:
        self._size = huge_page()
        self._pages: set[int] = set()

    def __enter__(self) -> Self:
        self._pages = numbers(self._size, 0)
        return self

    def __exit__(self, error: object, *_: object) -> None:
        self._pages = set() if error else numbers(self._size, FILLED) - self._pages

    def gather(self) -> threading.Thread | None:
        """Starts gathering it in huge pages, once; nothing has to wait for the thread. None without any memory."""
        pages, self._pages = self._pages, set()
        if not pages:
            return None
        thread = threading.Thread(target=gather, args=(self._size, pages), name="huge pages", daemon=True)
        thread.start()
        return thread


def huge_page() -> int:
    """Returns the bytes of a huge page, or 0 where there are none, or where they are not wanted."""
    try:
        wanted = "[never]" not in (SETTINGS / "enabled").read_text()
        return int((SETTINGS / "hpage_pmd_size").read_text()) if wanted else 0
    except (OSError, ValueError):
        return 0


def gather(size: int, pages: Collection[int]) -> int:
    """Gathers memory in the huge pages of `size` bytes with these numbers; returns the bytes that could be.

    It rests between them, so that an answer that is computed meanwhile loses little time.
    """
    try:
        advice = Advice()
    except OSError:  # not Linux
        return 0
    with timed(log, "memory gathered in huge pages"):
        done = 0
        for page in sorted(pages):
            began = time.perf_counter()
            done += advice.give(page * size, size, COLLAPSE)
            time.sleep(REST * (time.perf_counter() - began))
    return done * size


def numbers(size: int, filled: float) -> set[int]:
    """Returns the numbers of the huge pages that lie within private memory of which a share is `filled`."""
    if not size:
        return set()
    try:
        parts = [part for part in mapped_parts() if part.rights == b"rw-p" and not part.inode]
    except OSError:
        return set()
    found: set[int] = set()
    for part in parts:
        if part.name in (b"", b"[heap]") and part.sizes[b"Rss"] >= filled * (part.end - part.start):
            found.update(range(-(-part.start // size), part.end // size))
    return found
