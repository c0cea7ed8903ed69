"""Writes directories and files atomically: beside their final path, then renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ..errors import ExportError, OutputError
from .locks import lock
from .log import log
from .scratch import LOCK, abandoned, new_id, path_in_state

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Errno values that only writing raises."""
_PARTIAL, _REPLACED = "partial", "replaced"
"""States of a directory beside an output: incomplete or being deleted, and a complete old output."""
_PATIENCE = 10
"""Attempts at a rename that Windows refuses: virus scanners briefly open new files."""
_PAUSE = 0.2
"""Seconds between attempts."""
WINDOWS = os.name == "nt"


@dataclass(frozen=True)
class OutputKind:
    """A kind of output directory: its name in messages, and the files that identify one that may be replaced."""

    noun: str
    marks: tuple[str, ...]


@contextlib.contextmanager
def writing(out: Path, force: bool, kind: OutputKind) -> Iterator[Path]:
    """Yields a directory beside `out` that is renamed to `out` if the block succeeds and removed if it fails.

    Raises OutputError if `out` exists and `force` is not set, or if the disk is full or not writable.
    """
    check_free(out, force, kind)
    out = Path(os.path.realpath(out))
    _clear_leftovers(out)
    check_free(out, force, kind)
    id = new_id()
    beside = path_in_state(out.parent, out.name, id, _PARTIAL)
    with parents(out), naming_output(beside, out), lock(path_in_state(out.parent, out.name, id, LOCK)):
        try:
            beside.mkdir()
            yield beside
            _sync(beside)
            check_free(out, force, kind)  # another process may have finished first
            _replace(beside, out)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


@contextlib.contextmanager
def parents(out: Path) -> Iterator[None]:
    """Creates the missing parents of `out`; those still empty after the block are removed."""
    created = [parent for parent in out.parents if not parent.exists()]
    try:
        with naming_output(out, out):
            out.parent.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        _remove_empty(created)


@contextlib.contextmanager
def naming_output(beside: Path, out: Path) -> Iterator[None]:
    """Turns OSErrors raised while `beside` is written into errors that name `out` or the unreadable file."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        reason, ours = error.strerror or str(error), str(beside.with_suffix(""))
        other = error.filename and not str(error.filename).startswith(ours)
        if other and error.errno not in FULL and not out.is_relative_to(Path(error.filename)):
            raise ExportError(f"cannot be read: {reason}", where=error.filename) from error
        busy = WINDOWS and error.errno == errno.EACCES and error.filename is not None
        fix = "close the program that has it open" if busy else "free disk space or choose another directory"
        fix = f"{fix}; the existing output is unchanged"
        raise OutputError(f"cannot be written: {reason}", where=out, fix=fix) from error


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file that is renamed to `path` once complete, even if two processes write the same path.

    Raises OutputError for an OSError that does not name the file, such as that of a full disk.
    """
    beside = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with beside.open("wb") as file:
            yield file
        _rename(beside, path)
    except OSError as error:
        if error.filename is not None:
            raise
        reason = error.strerror or f"{error}: is the disk full?"  # NumPy says neither where nor why
        raise OutputError(
            f"cannot be written: {reason}", where=path, fix="free disk space and run the command again"
        ) from error
    finally:
        beside.unlink(missing_ok=True)


def check_free(out: Path, force: bool, kind: OutputKind) -> None:
    """Raises OutputError if `out` exists without `force`, is not a `kind`, or contains the current directory.

    An empty directory counts as free.
    """
    if not out.exists() and not out.is_symlink():
        return
    empty = out.is_dir() and not any(out.iterdir())
    if not empty and not all((out / mark).is_file() for mark in kind.marks):
        raise OutputError(f"exists and is not {kind.noun}", where=out, fix="choose another directory")
    if Path.cwd().is_relative_to(out.resolve()):
        raise OutputError("is the current directory", where=out, fix="run the command from another directory")
    if not empty and not force:
        raise OutputError("already exists", where=out, fix="give --force to replace it")


def _clear_leftovers(out: Path) -> None:
    """Cleans up after processes that are gone; an old directory caught between two renames is restored."""
    for id in abandoned(out.parent, out.name, _PARTIAL, _REPLACED):
        old, beside = (path_in_state(out.parent, out.name, id, state) for state in (_REPLACED, _PARTIAL))
        if old.exists() and not out.exists():
            _rename(old, out)
        else:
            shutil.rmtree(old, ignore_errors=True)
        shutil.rmtree(beside, ignore_errors=True)


def _remove_empty(directories: list[Path]) -> None:
    """Removes directories, innermost first, up to the first that is not empty."""
    with contextlib.suppress(OSError):
        for directory in directories:
            directory.rmdir()


def _sync(directory: Path) -> None:
    """Flushes the directory's contents to disk, so that they get there before its name does."""
    found = [*directory.rglob("*"), directory]
    for path in found:
        if path.is_file():
            _sync_one(path)
    for path in found:
        if path.is_dir():
            with contextlib.suppress(OSError):  # Windows cannot open directories, some file systems cannot sync them
                _sync_one(path)


def _sync_one(path: Path) -> None:
    try:
        handle = os.open(path, os.O_RDWR)  # Windows cannot sync a file that is open for reading only
    except OSError:
        handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _replace(beside: Path, out: Path) -> None:
    """Renames `beside` to `out`; an old directory is moved aside first and removed last.

    A directory in state `replaced` is always complete: it is renamed to `partial` before it is deleted.
    """
    old = beside.with_suffix(f".{_REPLACED}")
    try:
        if out.exists():
            _rename(out, old)
        _rename(beside, out)
        log.debug("output in place: %s", out)
    except BaseException:  # an interruption too
        if old.exists() and not out.exists():
            _rename(old, out)
        raise
    if old.exists():
        with contextlib.suppress(OSError):  # Windows: another program has one of its files open
            _rename(old, beside)
        shutil.rmtree(beside, ignore_errors=True)


def _rename(source: Path, target: Path) -> None:
    """Renames, with retries on Windows, which refuses while a program has the file, or one in the directory, open."""
    for left in reversed(range(_PATIENCE if WINDOWS else 1)):
        try:
            source.replace(target)
            return
        except PermissionError:
            if not left:
                raise
        time.sleep(_PAUSE)
