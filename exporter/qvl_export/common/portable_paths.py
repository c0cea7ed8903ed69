"""File names in untrusted input, checked and read alike on every platform."""

from __future__ import annotations

from pathlib import Path, PureWindowsPath


def is_inside(name: str) -> bool:
    """Whether a relative path stays in its directory on any platform: no root, drive or `..`, however it is written.

    Windows accepts both `/` and `\\`, so a path that is safe there is safe everywhere.
    """
    path = PureWindowsPath(name)
    return bool(path.parts) and not path.drive and not path.root and ".." not in path.parts and "\0" not in name


def is_plain(name: str) -> bool:
    """Whether `name` is a bare file name on any platform, without a directory or drive."""
    return is_inside(name) and PureWindowsPath(name).name == name


def with_slashes(name: str, directory: Path) -> str:
    """Returns a path below `directory` in POSIX form; a file there that really has a backslash in its name keeps it."""
    if "\\" not in name or (directory / name).is_file():
        return name
    return PureWindowsPath(name).as_posix()
