"""Names of files in what others made: the same are taken, and refused, on every platform."""

from __future__ import annotations

from pathlib import PureWindowsPath


def is_inside(name: str) -> bool:
    """Whether a relative path stays in its directory on any platform: no root, drive or `..`, however it is written.

    Windows takes `/` and `\\` alike, so what holds there holds everywhere.
    """
    path = PureWindowsPath(name)
    return bool(path.parts) and not path.drive and not path.root and ".." not in path.parts and "\0" not in name


def is_plain(name: str) -> bool:
    """Whether it is a file's name alone, without a directory or drive, on any platform."""
    return is_inside(name) and PureWindowsPath(name).name == name
