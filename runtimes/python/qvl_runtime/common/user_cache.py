"""Caches results that took time in the user's cache directory. The files may disappear at any time."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from .log import log


def directory(program: str) -> Path:
    """Returns the cache directory of `program`: the platform's, or that in XDG_CACHE_HOME, on every platform.

    For users without a home it is a path where nothing can be stored; a shared directory would be open to others.
    """
    if override := os.environ.get("XDG_CACHE_HOME"):
        return Path(override) / program
    import platformdirs  # only needed here

    try:
        path = platformdirs.user_cache_path(program, appauthor=False)
    except RuntimeError:  # no home; earlier versions return a path that begins with "~"
        path = Path("~")
    return path if path.is_absolute() else Path(os.devnull) / program


def read(path: Path) -> bytes | None:
    """Returns the cached bytes, or None if there are none."""
    try:
        content = path.read_bytes()
    except OSError:
        log.debug("not in the user's cache: %s", path)
        return None
    log.debug("read from the user's cache: %s, %d bytes", path, len(content))
    return content


def keep(path: Path, data: bytes) -> None:
    """Stores bytes atomically (temporary file, then rename); failures to write are ignored."""
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            beside.write_bytes(data)
            beside.replace(path)
            log.debug("stored in the user's cache: %s, %d bytes", path, len(data))
        finally:
            beside.unlink(missing_ok=True)
