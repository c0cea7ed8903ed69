"""Caches results that took time in the user's cache directory. The files may disappear at any time."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def directory(program: str) -> Path:
    """Returns the cache directory of `program`; source: XDG Base Directory Specification.

    For users without a home it is a path where nothing can be stored; a shared directory would be open to others.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / program
    except RuntimeError:
        return Path(os.devnull) / program


def read(path: Path) -> bytes | None:
    """Returns the cached bytes, or None if there are none."""
    try:
        return path.read_bytes()
    except OSError:
        return None


def keep(path: Path, data: bytes) -> None:
    """Stores bytes atomically (temporary file, then rename); failures to write are ignored."""
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            beside.write_bytes(data)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
