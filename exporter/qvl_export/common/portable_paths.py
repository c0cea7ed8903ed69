"""Checks of file names in untrusted input; the result is the same on every platform."""

from __future__ import annotations

from pathlib import PureWindowsPath


def is_inside(name: str) -> bool:
    """Whether a relative path stays in its directory on any platform: no root, drive or `..`, however it is written.

    Windows accepts both `/` and `\\`, so a path that is safe there is safe everywhere.
    """
    path = PureWindowsPath(name)
    return bool(path.parts) and not path.drive and not path.root and ".." not in path.parts and "\0" not in name


def is_plain(name: str) -> bool:
    """Whether `name` is a bare file name on any platform, without a directory or drive."""
    return is_inside(name) and PureWindowsPath(name).name == name
