"""Shows progress: a bar on a terminal, plain lines elsewhere, nothing with `quiet`."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from typing import IO, Any, cast

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bar

from qvl_runtime.printable import printable

LINE_SECONDS = 30
"""Longest time between two progress lines."""


class _IgnoringErrors:
    """A stream that ignores write errors: its reader may be gone, or the disk full."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


def progress_console(quiet: bool) -> Console:
    """Returns a console on standard error, whose write errors do not end hours of work."""
    file = cast(IO[str], _IgnoringErrors(sys.stderr))
    return Console(file=file, quiet=quiet, highlight=False, soft_wrap=True, markup=False, emoji=False)


class RichProgress:
    """A bar on a terminal, one line per stage elsewhere, nothing with `quiet`."""

    def __init__(self, quiet: bool) -> None:
        self._console = progress_console(quiet)
        columns = TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn()
        self._bar = Bar(*columns, TimeRemainingColumn(), console=self._console, transient=True)
        self._task: TaskID | None = None

    def stage(self, text: str, total: int = 0) -> None:
        text = printable(text)
        self._console.print(text)
        if total and self._console.is_terminal:
            self._bar.start()
            self._task = self._bar.add_task(text, total=total)

    def advance(self, count: int) -> None:
        if self._task is not None:
            self._bar.advance(self._task, count)

    def stop(self) -> None:
        if self._task is not None:
            self._bar.stop()


class ItemProgress:
    """A bar over items on a terminal, plain lines elsewhere, nothing with `quiet`."""

    def __init__(self, quiet: bool) -> None:
        self._console = progress_console(quiet)
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        self._bar = Bar(*columns, console=self._console, transient=True)
        self._task: TaskID | None = None
        self._lines = ProgressLines(0)

    def stage(self, text: str, total: int = 0) -> None:
        self._console.print(printable(text))
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None
        self._lines = ProgressLines(total)
        if total and self._console.is_terminal:
            self._bar.start()
            self._task = self._bar.add_task("", total=total)

    def advance(self, count: int) -> None:
        if self._task is not None:
            self._bar.advance(self._task, count)
        elif line := self._lines.after(count):
            self._console.print(line)

    def stop(self) -> None:
        if self._bar.live.is_started:  # Rich prints an empty line even for a bar that never started
            self._bar.stop()


class ProgressLines:
    """Progress lines instead of a bar: one per tenth of the items, and at least one every LINE_SECONDS."""

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._total, self._clock = total, clock
        self._done, self._reported, self._began = 0, 0, clock()
        self._last = self._began

    def after(self, count: int) -> str:
        """Returns a line if one is due, otherwise an empty string."""
        self._done += count
        now = self._clock()
        due = self._done - self._reported >= max(1, self._total // 10) or now - self._last >= LINE_SECONDS
        if not self._total or not due:
            return ""
        self._reported, self._last = self._done, now
        left = (now - self._began) / self._done * (self._total - self._done)
        return f"  {self._done} of {self._total}" + (f", {left:.0f} s left" if self._done < self._total else "")
