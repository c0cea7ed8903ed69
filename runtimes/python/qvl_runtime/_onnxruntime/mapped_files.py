"""Frees memory of files that ONNX Runtime has mapped: pages that were read once and may never be read again.

ONNX Runtime maps the weights of a graph. It keeps the map of a table that is both packed for products and looked up row
by row, with all of its pages, of which an answer reads a few. Only on Linux; elsewhere nothing is freed.

A session that is being made maps files and drops maps, and so does one that ends. The addresses of a dropped map may be
those of other memory a moment later, whose content would be lost. Pages are therefore freed only while neither happens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import RLock

from ..common.memory_maps import Advice, mapped_parts

DONTNEED = 4
"""Linux's MADV_DONTNEED: pages of a mapped file are read again when they are used."""


class Maps:
    """Lets the threads of a process free pages only while no session changes what is mapped."""

    def __init__(self) -> None:
        self._lock = RLock()  # a finalizer may close a model while pages are freed
        self._changes, self._waiting = 0, set[Path]()

    @contextmanager
    def change(self) -> Iterator[None]:
        """Surrounds what makes or ends a session."""
        with self._lock:
            self._changes += 1
        try:
            yield
        finally:
            with self._lock:
                self._changes -= 1
                self._free_waiting()

    def free_later(self, directory: Path) -> None:
        """Frees the pages of a directory: at once, or after the last change that goes on; see `free_pages`."""
        with self._lock:
            self._waiting.add(directory)
            self._free_waiting()

    def _free_waiting(self) -> None:
        while self._waiting and not self._changes:
            free_pages(self._waiting.pop())


maps = Maps()
"""Of this process."""


def free_pages(directory: Path) -> int:
    """Frees the resident pages of mapped files in a directory, which are read again when used; returns their bytes.

    No session may be made or ended meanwhile: `Maps.free_later` waits for that.
    """
    try:
        found, advice = list(_mapped(bytes(directory.resolve()) + b"/")), Advice()
    except (OSError, KeyError):  # not Linux
        return 0
    return sum(size for start, end, size in found if advice.give(start, end - start, DONTNEED))


def _mapped(directory: bytes) -> Iterator[tuple[int, int, int]]:
    """Yields start, end and resident bytes of each part of a file that is mapped, resident and unchanged.

    A page that was written to is not in the file, so that the parts with one are left out.
    """
    for part in mapped_parts():
        if part.name.startswith(directory):
            sizes = part.sizes
            if sizes[b"Rss"] and not sizes[b"Anonymous"] and not sizes.get(b"Swap", 0):
                yield part.start, part.end, sizes[b"Rss"]
