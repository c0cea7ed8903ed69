"""Work that may be given up between its steps, such as between the frames of a video."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from ..errors import QvlError

_current = threading.local()


class Interrupted(QvlError):
    """Work was given up: its time is over, or nobody waits for its result."""


@contextlib.contextmanager
def interruptible(over: Callable[[], bool]) -> Iterator[None]:
    """Lets `check_interrupted` end the work of this thread in the block once `over` is true."""
    before = getattr(_current, "over", None)
    _current.over = over
    try:
        yield
    finally:
        _current.over = before


def check_interrupted(doing: str) -> None:
    """Raises Interrupted, which names what the work was `doing`, if it is to end; called before every step."""
    over: Callable[[], bool] | None = getattr(_current, "over", None)
    if over is not None and over():
        raise Interrupted(f"the time of the request was over while {doing}")
