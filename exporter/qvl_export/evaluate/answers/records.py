"""What a model answered, one JSON line an item, appended as it comes and read one at a time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from ...common.atomic_output import written
from .agreement import Agreement

CHUNK = 1 << 16


class Record(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One item answered by one model, or the `error` why not.

    `tokens` end with the stop token where the answer did; `fresh`: the page was not the previous item's, whose image
    features would have been at hand; `size` and `resized` are (width, height) of the page and of what the model saw.
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
    """What a process measured besides its answers."""

    load_seconds: float
    peak_memory_mb: float

    def save(self, directory: Path, name: str, rank: int) -> None:
        with written(self.place(directory, name, rank)) as file:
            file.write(msgspec.json.encode(self))

    @staticmethod
    def place(directory: Path, name: str, rank: int | str) -> Path:
        """The file of one process, or with `*` the pattern of all."""
        return directory / f"{name}.{rank}.cost.json"

    @staticmethod
    def drop(directory: Path, name: str, workers: int) -> None:
        """Forget those of processes beyond so many, of a run that had more."""
        for path in directory.glob(Cost.place(directory, name, "*").name):
            if int(path.name.split(".")[-3]) >= workers:
                path.unlink()

    @staticmethod
    def load(directory: Path, name: str) -> Cost | None:
        """Of several processes the longest load, and all their memory together."""
        costs = [
            msgspec.json.decode(path.read_bytes(), type=Cost)
            for path in sorted(directory.glob(Cost.place(directory, name, "*").name))
        ]
        if not costs:
            return None
        return Cost(max(cost.load_seconds for cost in costs), sum(cost.peak_memory_mb for cost in costs))


class _Head(msgspec.Struct):
    """What is needed of a line to know whether its item is done."""

    item: int = 0
    error: str = ""


class Records:
    """The answers of one model, found by item; only their places in the files are held."""

    def __init__(self, directory: Path, name: str) -> None:
        self._places: dict[int, tuple[Path, int]] = {}
        self.failed: set[int] = set()
        for path in sorted(directory.glob(f"{name}.*.jsonl")):
            self._scan(path)

    def _scan(self, path: Path) -> None:
        place = 0
        with path.open("rb") as file:
            for line in file:
                with contextlib.suppress(msgspec.MsgspecError):  # the line a killed process was writing
                    self._note(msgspec.json.decode(line, type=_Head), (path, place))
                place += len(line)

    def _note(self, head: _Head, place: tuple[Path, int]) -> None:
        """A failure counts where there is no answer: files are read in another order than they were written."""
        answered = head.item in self._places and head.item not in self.failed
        if head.error and answered:
            return
        self._places[head.item] = place
        (self.failed.add if head.error else self.failed.discard)(head.item)

    def __len__(self) -> int:
        """Items answered."""
        return len(self._places) - len(self.failed)

    def get(self, item: int) -> Record | None:
        """The last answer to an item, or why there is none."""
        if item not in self._places:
            return None
        path, place = self._places[item]
        with path.open("rb") as file:
            file.seek(place)
            return msgspec.json.decode(file.readline(), type=Record)

    def answered(self, item: int) -> Record | None:
        """The record of an item that did not fail; failed ones are tried again by the next run."""
        return None if item in self.failed else self.get(item)


@contextlib.contextmanager
def appending(directory: Path, name: str, rank: int) -> Iterator[Callable[[Record], None]]:
    """A function that appends a record; half a line that a killed process left is cut off first."""
    path = directory / f"{name}.{rank}.jsonl"
    with path.open("ab+") as file:
        _cut_half_line(file)

        def append(record: Record) -> None:
            file.write(msgspec.json.encode(record) + b"\n")
            file.flush()

        yield append


def _cut_half_line(file: BinaryIO) -> None:
    """Leave nothing after the last line break, looked for from the end."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - CHUNK)
        file.seek(start)
        if (found := file.read(end - start).rfind(b"\n")) >= 0:
            end = start + found + 1
            break
        end = start
    file.truncate(end)
