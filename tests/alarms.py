"""Ctrl+C at a chosen moment, where there are alarms (not on Windows)."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def interrupt_after(seconds: float) -> Iterator[None]:
    """Raises KeyboardInterrupt in the block once; what catches it stands around the block, which may be over by then.

    An alarm that nothing catches would end the whole run, and so would one that is left after another failure.
    """

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, seconds)
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.signal(signal.SIGALRM, before)
