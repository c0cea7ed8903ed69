"""Locks that the operating system releases when their process ends, however it ends.

Nothing outlives the process: neither a marker file that would have to be interpreted, nor a process id that another
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
"""Errno values for a lock that another process holds; Windows uses the first and the last."""
FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)


@contextlib.contextmanager
def lock(path: Path) -> Iterator[bool | None]:
    """Holds a lock on the file `path` during the block, then removes the file.

    Yields False if another process holds it, and None if the file system or platform has no locks.
    """
    handle, held = _opened(path)
    removed = held is False  # its holder removes it
    try:
        yield held
    finally:
        if not removed:
            removed = _removed(path)  # while locked: a process that has opened it sees that it is gone
        os.close(handle)
        if not removed:
            _removed(path)  # Windows cannot remove an open file


def _removed(path: Path) -> bool:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return False
    return True


def _opened(path: Path) -> tuple[int, bool | None]:
    """Returns a handle, locked if possible; a file that its last holder has just removed is created again."""
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
    """Locks an open file; returns False if another process holds the lock, None if that cannot be determined."""
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
    """Imports a module that only some platforms have; returns None elsewhere."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
