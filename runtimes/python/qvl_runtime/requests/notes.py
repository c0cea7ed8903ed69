"""Warnings of the runtime, such as that an image was scaled down, collected for the request that caused them."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator

from ..printable import one_line

MOST, LONGEST = 8, 300
_current = threading.local()


@contextlib.contextmanager
def collecting() -> Iterator[list[str]]:
    """Collects the warnings that this thread causes in the block, if it is within `routed`."""
    _current.notes = []
    try:
        yield _current.notes
    finally:
        _current.notes = None


@contextlib.contextmanager
def routed() -> Iterator[None]:
    """Gives all warnings of the process to the request that causes them, instead of printing them.

    They may quote a request, which logs must not.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.showwarning = _keep
        yield


def _keep(message: Warning | str, *_: object, **__: object) -> None:
    notes: list[str] | None = getattr(_current, "notes", None)
    if notes is not None and len(notes) < MOST:
        notes.append(one_line(str(message))[:LONGEST])
