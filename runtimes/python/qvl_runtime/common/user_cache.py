"""Files in the user's cache directory: what took time once, kept for the next start. They may be lost at any time."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def directory(program: str) -> Path:
    """Where `program` keeps its files; source: XDG Base Directory Specification.

    For users without a home it is a place where nothing can be kept; a shared one would be open to others.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / program
    except RuntimeError:
        return Path(os.devnull) / program


def read(path: Path) -> bytes | None:
    """What was kept; None the first time."""
    try:
        return path.read_bytes()
    except OSError:
        return None


def keep(path: Path, data: bytes) -> None:
    """Keep it for the next time, written beside and renamed; where that cannot be, the next time goes without."""
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            beside.write_bytes(data)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
