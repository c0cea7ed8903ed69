"""Files in the user's cache directory: what took time once, kept for the next start. They may be lost at any time."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def directory(program: str) -> Path:
    """Where `program` keeps its files; source: XDG Base Directory Specification."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / program


def read(path: Path) -> bytes | None:
    """What was kept; None the first time."""
    try:
        return path.read_bytes()
    except OSError:
        return None


def keep(path: Path, data: bytes) -> None:
    """Keep it for the next time; where that cannot be, the next time goes without."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
