"""Progress of a run on standard error: one line that is written over on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from time import monotonic

from ..common.counted import counted
from ..common.standard_streams import say

LINE_SECONDS, TERMINAL_SECONDS = 30.0, 0.5
"""Shortest time between two lines."""


class Progress:
    """Counts pages of `documents` files; prints nothing with `quiet`.

    The number of pages of files that were not opened yet is estimated from the others.
    """

    def __init__(self, documents: int, quiet: bool = False, clock: Callable[[], float] = monotonic) -> None:
        self._documents, self._quiet, self._clock = documents, quiet, clock
        self._opened = self._pages = self._read = self._skipped = self._failed = 0
        self._began = self._last = clock()
        self._terminal = sys.stderr.isatty()

    def opened(self, pages: int) -> None:
        """Counts a file that is begun, and its pages."""
        self._opened, self._pages = self._opened + 1, self._pages + pages

    def skipped(self) -> None:
        """Counts a page that an earlier run has answered."""
        self._skipped += 1
        self._show()

    def done(self, failed: bool) -> None:
        """Counts a page that is recorded."""
        self._read += 1
        self._failed += failed
        self._show()

    def end(self) -> None:
        """Ends the line on the terminal."""
        if self._terminal and not self._quiet:
            _write("\r\x1b[K")

    def _show(self) -> None:
        now = self._clock()
        if self._quiet or now - self._last < (TERMINAL_SECONDS if self._terminal else LINE_SECONDS):
            return
        self._last = now
        if self._terminal:
            _write(f"\r\x1b[K{self.line()}")
        else:
            say(self.line())

    def line(self) -> str:
        """Returns pages and files so far, pages per minute, the time left and the number of failures."""
        seconds = max(self._clock() - self._began, 1e-9)
        pages, speed = self._read + self._skipped, self._read / seconds
        files = f"file {self._opened:,} of {self._documents:,}"
        total = max(pages, round(self._pages * self._documents / max(1, self._opened)))
        left = f", {_time((total - pages) / speed)} left" if speed else ""
        failed = f", {self._failed:,} failed" if self._failed else ""
        return f"{counted(pages, 'page')}, {files}, {60 * speed:.1f} pages per minute{left}{failed}"


def _time(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes} min" if minutes else f"{round(seconds)} s"


def _write(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(text, end="", file=sys.stderr, flush=True)
