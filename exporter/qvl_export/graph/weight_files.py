"""The files that hold a graph's weights: one, or several where an engine reads no larger ones."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

ALIGNMENT = 4096
"""Alignment of external data in bytes, a memory page, so that engines can map it."""


class Place(NamedTuple):
    """Where a weight begins."""

    file: str
    offset: int


class WeightFiles:
    """Files called `data`, then `data.1`, `data.2` …; each but the last holds as many weights as fit in `most` bytes.

    `hashes` are the SHA-256 of the files that are complete, by name. Usable in a `with`.
    """

    def __init__(self, data: Path, most: int | None = None) -> None:
        self._data, self._most, self.hashes = data, most, dict[str, str]()
        self._open(data)

    def __enter__(self) -> WeightFiles:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def place(self, length: int) -> Place:
        """Begins a weight of `length` bytes."""
        padding = -self._file.tell() % ALIGNMENT
        start = self._file.tell() + padding
        if self._most is not None and start and start + length > self._most:
            self._close()
            self._open(self._data.with_name(f"{self._data.name}.{len(self.hashes)}"))
            return self.place(length)
        self.write(b"\0" * padding)
        return Place(self._path.name, start)

    def write(self, data: bytes | memoryview) -> None:
        """Appends bytes of the weight."""
        self._file.write(data)
        self._digest.update(data)

    def _open(self, path: Path) -> None:
        self._path, self._file, self._digest = path, path.open("wb"), hashlib.sha256()

    def _close(self) -> None:
        self._file.close()
        self.hashes[self._path.name] = self._digest.hexdigest()
