"""Finds the Python interpreter to start child processes with."""

from __future__ import annotations

import re
import sys
from pathlib import Path


def interpreter() -> str | None:
    """Returns the interpreter, or None if `sys.executable` is an application that embeds Python or is frozen."""
    name = Path(sys.executable or "").name
    usable = re.match(r"(?i)(python|pypy)", name) and not getattr(sys, "frozen", False)
    return sys.executable if usable else None
