"""Directories and files that are whole or not there: written beside their place, then renamed."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from .errors import ExportError, OutputError

_BESIDE = ".{name}.{id}.{state}"
_PARTIAL, _REPLACED = "partial", "replaced"


@dataclass(frozen=True)
class Product:
    """A kind of directory: what one is called, and the files by which it is known for one that may be replaced."""

    noun: str
    marks: tuple[str, ...]


@contextlib.contextmanager
def writing(out: Path, force: bool, product: Product) -> Iterator[Path]:
    """A directory beside `out` that becomes `out` when the block ends well, and vanishes when it does not.

    Raises OutputError when `out` exists and `force` is not set, or when the disk is full or not writable.
    """
    check_free(out, force, product)
    out = Path(os.path.realpath(out))
    _clear_leftovers(out)
    check_free(out, force, product)
    beside = out.parent / _BESIDE.format(name=out.name, id=uuid.uuid4().hex[:12], state=_PARTIAL)
    created = [parent for parent in out.parents if not parent.exists()]
    try:
        with told(beside, out):
            beside.mkdir(parents=True)
            with _locked(beside):
                yield beside
                _sync(beside)
                check_free(out, force, product)  # another process may have finished first
                _replace(beside, out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        _remove_empty(created)


@contextlib.contextmanager
def told(beside: Path, out: Path) -> Iterator[None]:
    """What the system refuses while `beside` is written, which is to become `out`, as an error that names the place."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        reason, other = error.strerror or str(error), error.filename and not str(error.filename).startswith(str(beside))
        if other and not out.is_relative_to(Path(error.filename)):
            raise ExportError(f"cannot be read: {reason}", where=error.filename) from error
        fix = "make room or choose another place; it is as it was"
        raise OutputError(f"cannot be written: {reason}", where=out, fix=fix) from error


@contextlib.contextmanager
def written(path: Path) -> Iterator[IO[bytes]]:
    """A file that has its name once it is whole, even where two processes write the same.

    Raises OutputError for an error that would not name it, as that of a full disk.
    """
    beside = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with beside.open("wb") as file:
            yield file
        beside.replace(path)
    except OSError as error:
        if error.filename is not None:
            raise
        reason = error.strerror or f"{error}: is the disk full?"  # NumPy says neither where nor why
        raise OutputError(f"cannot be written: {reason}", where=path, fix="make room, then run it again") from error
    finally:
        beside.unlink(missing_ok=True)


def check_free(out: Path, force: bool, product: Product) -> None:
    """Refuse an existing `out` without `force`, and anything but a `product` with it; an empty directory is free."""
    if not out.exists() and not out.is_symlink():
        return
    empty = out.is_dir() and not any(out.iterdir())
    if not empty and not all((out / mark).is_file() for mark in product.marks):
        raise OutputError(f"exists and is not {product.noun}", where=out, fix="choose another place")
    if Path.cwd().is_relative_to(out.resolve()):
        raise OutputError("is the current directory", where=out, fix="run it from elsewhere")
    if not empty and not force:
        raise OutputError("already exists", where=out, fix="give --force to replace it")


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold a lock on it, which ends with the process however that ends: on this machine or another, whatever its id."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks: it goes without
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _clear_leftovers(out: Path) -> None:
    """Clear away after processes that are gone; an old directory caught between renames comes back."""
    pattern = _BESIDE.format(name=glob.escape(out.name), id="*", state="*")
    for path in sorted(out.parent.glob(pattern)):
        if _in_use(path.with_suffix(f".{_PARTIAL}")):
            continue
        if path.suffix == f".{_REPLACED}" and not out.exists():
            path.rename(out)
        elif path.suffix in (f".{_PARTIAL}", f".{_REPLACED}"):
            shutil.rmtree(path, ignore_errors=True)


def _in_use(directory: Path) -> bool:
    """Whether a process holds its lock; where that cannot be told, one does."""
    try:
        handle = os.open(directory, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(handle)


def _remove_empty(directories: list[Path]) -> None:
    """Parents made for a directory that then failed, innermost first."""
    with contextlib.suppress(OSError):
        for directory in directories:
            directory.rmdir()


def _sync(directory: Path) -> None:
    for path in (*directory.iterdir(), directory):
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def _replace(beside: Path, out: Path) -> None:
    """Rename into place; an old directory is moved aside first and removed last."""
    old = beside.with_suffix(f".{_REPLACED}")
    if out.exists():
        out.rename(old)
    try:
        beside.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)
