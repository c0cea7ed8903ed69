"""Files that a user names: only regular ones are read, and never more than a bound.

A device such as /dev/zero has no end, and a named pipe may never have a writer.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import IO

from .errors import MediaError, PromptError, QvlError

MAX_TEXT_BYTES = 1 << 26
"""A file of JSON or text that is read whole: 64 MiB."""


def open_regular(path: str | Path, limit: int, error: type[QvlError] = MediaError) -> IO[bytes]:
    """A regular file of at most `limit` bytes, open for reading; raises `error` for what else is there."""
    try:
        # without O_NONBLOCK, opening a pipe waits for its writer
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (FileNotFoundError, NotADirectoryError, ValueError) as failure:
        raise error("no such file", where=path) from failure
    except OSError as failure:
        raise error(_kind(path) or f"cannot be read: {failure.strerror}", where=path) from failure
    try:
        _check(os.fstat(handle), path, limit, error)
    except QvlError:
        os.close(handle)
        raise
    return os.fdopen(handle, "rb")


def check_regular(path: str | Path, limit: int, error: type[QvlError] = MediaError) -> None:
    """Raise what `open_regular` would, for a file that a library opens by its name."""
    open_regular(path, limit, error).close()


def read_regular(path: str | Path, limit: int, error: type[QvlError] = MediaError) -> bytes:
    """The content of a regular file of at most `limit` bytes; raises `error` for what else is there."""
    with open_regular(path, limit, error) as file:
        content = file.read(limit + 1)  # its size may be given as 0, as that of files in /proc
    if len(content) > limit:
        raise error(_too_large(limit), where=path)
    return content


def read_text(path: str | Path, limit: int = MAX_TEXT_BYTES, error: type[QvlError] = PromptError) -> str:
    """The text of a regular file in UTF-8; raises `error` for one that is not regular, UnicodeDecodeError as usual."""
    return read_regular(path, limit, error).decode("utf-8")


def _check(status: os.stat_result, path: str | Path, limit: int, error: type[QvlError]) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise error("is a directory", where=path, fix="give its files one by one")
    if not stat.S_ISREG(status.st_mode):
        raise error("is not a regular file", where=path, fix="pipes and devices are not read: save it to a file first")
    if status.st_size > limit:
        raise error(_too_large(limit), where=path)


def _kind(path: str | Path) -> str:
    """What is in the way where a file cannot be opened at all: a directory on Windows, a socket."""
    if os.path.isdir(path):
        return "is a directory"
    return "" if os.path.isfile(path) else "is not a regular file"


def _too_large(limit: int) -> str:
    return f"is larger than {limit >> 20:,} MiB"
