"""What is mapped into this process, as Linux tells it, and advice to the system about it."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

SMAPS = Path("/proc/self/smaps")
_PART = re.compile(rb"^([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ (\d+) *(.*)\n((?:[A-Z].*\n)+)", re.MULTILINE)
_SIZE = re.compile(rb"(\w+): +(\d+) kB")


class Part(NamedTuple):
    """A mapped part of memory: addresses of its first byte and behind its last, rights such as b"rw-p", and file.

    `inode` is 0 and `name` empty, or a word in brackets, if it is of no file.
    """

    start: int
    end: int
    rights: bytes
    inode: int
    name: bytes
    details: bytes

    @property
    def sizes(self) -> Mapping[bytes, int]:
        """Bytes by what they are, such as b"Rss", those in memory."""
        return {name: int(kilobytes) * 1024 for name, kilobytes in _SIZE.findall(self.details)}


def mapped_parts() -> Iterator[Part]:
    """Yields what is mapped; raises OSError where the system does not say it."""
    for found in _PART.finditer(SMAPS.read_bytes()):
        yield Part(int(found[1], 16), int(found[2], 16), found[3], int(found[4]), found[5], found[6])


class Advice:
    """The system's `madvise`; raises OSError where there is none."""

    def __init__(self) -> None:
        try:
            self._madvise: Any = ctypes.CDLL(None).madvise
        except (AttributeError, TypeError) as error:  # not POSIX
            raise OSError("there is no madvise") from error

    def give(self, start: int, size: int, advice: int) -> bool:
        """Returns whether the system took the advice about `size` bytes from an address on."""
        return not self._madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), advice)
