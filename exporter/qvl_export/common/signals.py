"""Being told to end, as an exception: what is half done is cleared away as it is after an interruption."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

NAMES = ("SIGTERM", "SIGHUP", "SIGBREAK")
"""The end asked for, and that of a terminal; Windows knows the last one."""


class Terminated(SystemExit):
    """A signal asked for the end; the exit code is the one shells give it, such as 143."""


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Raise Terminated in the block when a signal asks for the end, once; handlers that others have set stay."""
    numbers = [number for name in NAMES if (number := getattr(signal, name, None)) is not None]
    ours = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    if threading.current_thread() is not threading.main_thread():
        ours = []

    def terminate(number: int, _: Any) -> None:
        for each in ours:
            signal.signal(each, signal.SIG_IGN)  # clearing away is not to be interrupted
        raise Terminated(128 + number)

    for number in ours:
        signal.signal(number, terminate)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
