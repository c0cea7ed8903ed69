"""The answers of a model: one JSON line per item, appended as they come and read one at a time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from ...common.atomic_output import atomic_file
from .agreement import Agreement

CHUNK = 1 << 16


class Record(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One model's answer to one item, or the `error` that prevented it.

    `tokens` includes the stop token if the answer ended with one. `fresh` means that the page differs from the previous
    item's, so that its image features were not cached. `size` and `resized` are (width, height) of the page before and
    after resizing for the model.
    """

    item: int = 0
    answer: str = ""
    tokens: list[int] = []
    finish_reason: str = ""
    first_token_seconds: float = 0.0
    decode_seconds: float = 0.0
    fresh: bool = True
    size: tuple[int, int] = (1, 1)
    resized: tuple[int, int] = (1, 1)
    agreement: Agreement | None = None
    error: str = ""


class Cost(msgspec.Struct, frozen=True):
    """Load time and peak memory that a process measured."""

    load_seconds: float
    peak_memory_mb: float

    def save(self, directory: Path, name: str, rank: int) -> None:
        with atomic_file(self.place(directory, name, rank)) as file:
            file.write(msgspec.json.encode(self))

    @staticmethod
    def place(directory: Path, name: str, rank: int | str) -> Path:
        """Returns the file of one process, or with rank `*` the pattern of all."""
        return directory / f"{name}.{rank}.cost.json"

    @staticmethod
    def drop(directory: Path, name: str, workers: int) -> None:
        """Deletes the files of processes of rank `workers` or above, from an earlier run with more processes."""
        for path in directory.glob(Cost.place(directory, name, "*").name):
            if int(path.name.split(".")[-3]) >= workers:
                path.unlink()

    @staticmethod
    def load(directory: Path, name: str) -> Cost | None:
        """Returns the longest load time and the total memory of all processes; None if there are no files."""
        costs = [
            msgspec.json.decode(path.read_bytes(), type=Cost)
            for path in sorted(directory.glob(Cost.place(directory, name, "*").name))
        ]
        if not costs:
            return None
        return Cost(max(cost.load_seconds for cost in costs), sum(cost.peak_memory_mb for cost in costs))


class _Head(msgspec.Struct):
    """The part of a line that shows whether its item is done."""

    item: int = 0
    error: str = ""


class Records:
    """The answers of one model by item; only their offsets in the files are held in memory."""

    def __init__(self, directory: Path, name: str) -> None:
        self._places: dict[int, tuple[Path, int]] = {}
        self.failed: set[int] = set()
        for path in sorted(directory.glob(f"{name}.*.jsonl")):
            self._scan(path)

    def _scan(self, path: Path) -> None:
        place = 0
        with path.open("rb") as file:
            for line in file:
                with contextlib.suppress(msgspec.MsgspecError):  # the line that a killed process was writing
                    self._note(msgspec.json.decode(line, type=_Head), (path, place))
                place += len(line)

    def _note(self, head: _Head, place: tuple[Path, int]) -> None:
        """Notes a line; a failure never replaces an answer, as files are not read in the order they were written."""
        answered = head.item in self._places and head.item not in self.failed
        if head.error and answered:
            return
        self._places[head.item] = place
        (self.failed.add if head.error else self.failed.discard)(head.item)

    def __len__(self) -> int:
        """Number of items answered."""
        return len(self._places) - len(self.failed)

    def get(self, item: int) -> Record | None:
        """Returns the last record of an item, which may be a failure; None if there is none."""
        if item not in self._places:
            return None
        path, place = self._places[item]
        with path.open("rb") as file:
            file.seek(place)
            return msgspec.json.decode(file.readline(), type=Record)

    def answered(self, item: int) -> Record | None:
        """Returns the record of an item that did not fail; the next run tries failed items again."""
        return None if item in self.failed else self.get(item)


@contextlib.contextmanager
def appending(directory: Path, name: str, rank: int) -> Iterator[Callable[[Record], None]]:
    """Yields a function that appends a record; a partial line left by a killed process is cut off first."""
    path = directory / f"{name}.{rank}.jsonl"
    with path.open("ab+") as file:
        _cut_half_line(file)

        def append(record: Record) -> None:
            file.write(msgspec.json.encode(record) + b"\n")
            file.flush()

        yield append


def _cut_half_line(file: BinaryIO) -> None:
    """Truncates the file after its last line break, searching from the end."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - CHUNK)
        file.seek(start)
        if (found := file.read(end - start).rfind(b"\n")) >= 0:
            end = start + found + 1
            break
        end = start
    file.truncate(end)
