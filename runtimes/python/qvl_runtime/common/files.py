"""Reads files that a user names: only regular files, and never more than a limit.

A device such as /dev/zero has no end, and a named pipe may never get a writer. A pipe that is already open (a shell
creates one for `<(…)` and for `| … /dev/stdin`) is read up to a limit by `read_file`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Generator
from io import BufferedReader
from pathlib import Path

from ..errors import MediaError, QvlError

MAX_LINE_BYTES = 1 << 26
"""Maximum line length of a file that is read line by line: 64 MiB."""
MAX_PIPE_BYTES = 1 << 28
"""Maximum bytes read from a pipe, which are kept in memory: 256 MiB."""
CHUNK = 1 << 20
_OPEN_ALREADY = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")


def is_pipe(path: str | Path) -> bool:
    """Whether the path names a pipe that is already open."""
    return str(path).startswith(_OPEN_ALREADY) and os.path.exists(path) and stat.S_ISFIFO(os.stat(path).st_mode)


def open_regular(path: str | Path, limit: int, error: type[QvlError] = MediaError) -> BufferedReader:
    """Opens a regular file of at most `limit` bytes for reading; raises `error` for anything else."""
    if not str(path):
        raise error("the path is empty")
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
    """Raises what `open_regular` would, for a file that a library opens by its name."""
    open_regular(path, limit, error).close()


def read_file(path: str | Path, limit: int, error: type[QvlError] = MediaError) -> bytes:
    """Returns the content of a regular file or an open pipe of at most `limit` bytes; raises `error` otherwise."""
    piped = is_pipe(path)
    limit = min(limit, MAX_PIPE_BYTES) if piped else limit
    with open(path, "rb") if piped else open_regular(path, limit, error) as file:
        content = file.read(min(os.fstat(file.fileno()).st_size, limit) + 1)  # read() allocates this much at once
        while len(content) <= limit and (piece := file.read(CHUNK)):  # pipes and files in /proc have a size of 0
            content += piece
    if len(content) > limit:
        raise error(_too_large(limit), where=path)
    return content


def read_lines(path: Path, error: type[QvlError] = MediaError) -> Generator[bytes, None, None]:
    """Yields the lines of a regular file, one in memory at a time; raises `error` for a line that is too long."""
    number = 0
    with open_regular(path, 1 << 62, error) as file:
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                raise error(f"a line is longer than {MAX_LINE_BYTES >> 20} MiB", where=f"{path}:{number}")
            yield line


def _check(status: os.stat_result, path: str | Path, limit: int, error: type[QvlError]) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise error("is a directory", where=path, fix="give its files one by one")
    if not stat.S_ISREG(status.st_mode):
        raise error("is not a regular file", where=path, fix="named pipes and devices are not read")
    if status.st_size > limit:
        raise error(_too_large(limit), where=path)


def _kind(path: str | Path) -> str:
    """Says why a path cannot be opened if it is not a file: a directory on Windows, a socket; else empty."""
    if os.path.isdir(path):
        return "is a directory"
    return "" if os.path.isfile(path) else "is not a regular file"


def _too_large(limit: int) -> str:
    return f"is larger than {limit >> 20:,} MiB"
