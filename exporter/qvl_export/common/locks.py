"""Locks that the system takes back when their process ends, however it ends.

Nothing of them outlives the process: neither a marker file that would have to be judged, nor a process id that another
process may get.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BUSY = (errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK, errno.EDEADLK)
"""What systems say of a lock that another process holds; Windows says the first and the last."""
FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)


@contextlib.contextmanager
def lock(path: Path) -> Iterator[bool | None]:
    """Hold the lock of the file `path` during the block, then remove the file.

    Gives False where another process holds it, and None where file system or platform have no locks.
    """
    handle, held = _opened(path)
    removed = held is False  # by whoever holds it
    try:
        yield held
    finally:
        if not removed:
            removed = _removed(path)  # while it is held: whoever has opened it sees that it is gone
        os.close(handle)
        if not removed:
            _removed(path)  # Windows removes no file that is open


def _removed(path: Path) -> bool:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return False
    return True


def _opened(path: Path) -> tuple[int, bool | None]:
    """A handle of the file, locked if possible; one that its last holder removed meanwhile is made anew."""
    while True:
        handle = os.open(path, FLAGS, 0o666)
        try:
            held = _locked(handle)
            if not held or os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle, held
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _locked(handle: int) -> bool | None:
    """Lock an open file; False where it is locked, None where that cannot be told."""
    try:
        if (flock := _module("fcntl")) is not None:
            flock.flock(handle, flock.LOCK_EX | flock.LOCK_NB)
        elif (windows := _module("msvcrt")) is not None:
            windows.locking(handle, windows.LK_NBLCK, 1)
        else:
            return None
    except OSError as error:
        return False if error.errno in BUSY else None
    return True


def _module(name: str) -> Any:
    """A module that only some platforms have."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
