"""Turns termination signals into an exception, so that partial work is cleaned up as after a Ctrl+C."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

NAMES = ("SIGTERM", "SIGHUP", "SIGBREAK")
"""Requested termination, a closed terminal, and Ctrl+Break, which only Windows has."""


class Terminated(SystemExit):
    """A signal requested termination; the exit code is the shell convention 128 + signal number, such as 143."""


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Raises Terminated in the block on the first termination signal; handlers set by others stay."""
    numbers = [number for name in NAMES if (number := getattr(signal, name, None)) is not None]
    ours = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    if threading.current_thread() is not threading.main_thread():
        ours = []

    def terminate(number: int, _: Any) -> None:
        for each in ours:
            signal.signal(each, signal.SIG_IGN)  # cleanup must not be interrupted
        raise Terminated(128 + number)

    for number in ours:
        signal.signal(number, terminate)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
