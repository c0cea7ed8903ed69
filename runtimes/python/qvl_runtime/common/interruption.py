"""Work that may be given up between its steps, such as between the frames of a video."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from time import monotonic

from ..errors import Interrupted

Check = Callable[[str], None]
_current = threading.local()


class Deadline:
    """The end of work: at `until` (seconds of `monotonic`), or earlier if it is given up, from any thread."""

    def __init__(self, until: float) -> None:
        self.until, self._given_up = until, threading.Event()

    def give_up(self) -> None:
        """Ends the work at its next step; may be called more than once."""
        self._given_up.set()

    def check(self, when: str) -> None:
        """Raises Interrupted, which says `when`, if the work is to end."""
        if self._given_up.is_set():
            raise Interrupted(f"the request was cancelled {when}", late=False)
        if monotonic() >= self.until:
            raise Interrupted(f"the time of the request was over {when}")


@contextlib.contextmanager
def interruptible(check: Check) -> Iterator[None]:
    """Lets `check_interrupted` end the work of this thread in the block, by what `check` raises."""
    before = getattr(_current, "check", None)
    _current.check = check
    try:
        yield
    finally:
        _current.check = before


def check_interrupted(when: str) -> None:
    """Raises Interrupted, which says `when`, if the work of this thread is to end; called before every step."""
    check: Check | None = getattr(_current, "check", None)
    if check is not None:
        check(when)
