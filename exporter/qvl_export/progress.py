"""What is told while a command works, and how a terminal shows it."""

from __future__ import annotations

import contextlib
import sys
from typing import IO, Any, Protocol, cast

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TaskID, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bar

from qvl_runtime.printable import printable


class Progress(Protocol):
    """Told what an export is doing; `advance` counts bytes of weights read out of `total`."""

    def stage(self, text: str, total: int = 0) -> None: ...
    def advance(self, count: int) -> None: ...


class Silent:
    """Says nothing."""

    def stage(self, text: str, total: int = 0) -> None: ...
    def advance(self, count: int) -> None: ...


class _Unread:
    """A stream that drops what it cannot write: its reader may have gone away, or its disk be full."""

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
    """Standard error for progress; hours of work do not end because nobody can read how far they are."""
    file = cast(IO[str], _Unread(sys.stderr))
    return Console(file=file, quiet=quiet, highlight=False, soft_wrap=True, markup=False, emoji=False)


class RichProgress:
    """A bar on a terminal, a line a stage elsewhere, nothing with `quiet`."""

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
