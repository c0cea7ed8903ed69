"""Finds the Python interpreter to start child processes with, and the packages that they import."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path


def interpreter() -> str | None:
    """Returns the interpreter, or None if `sys.executable` is an application that embeds Python or is frozen."""
    name = Path(sys.executable or "").name
    usable = re.match(r"(?i)(python|pypy)", name) and not getattr(sys, "frozen", False)
    return sys.executable if usable else None


def locations(*packages: str) -> list[str]:
    """Returns the directories that the packages are imported from, for the search path of a child process."""
    found = (importlib.util.find_spec(package) for package in packages)
    folders = (str(Path(spec.origin).absolute().parents[1]) for spec in found if spec and spec.origin)
    return list(dict.fromkeys(folders))
