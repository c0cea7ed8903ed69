"""The answers of a model: one JSON line per item, appended as soon as it is answered, and read one at a time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from ...common.atomic_output import atomic_file
from .prefix_agreement import PrefixAgreement
from .token_agreement import Agreement

CHUNK = 1 << 16


class Record(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One model's answer to one item, or the `error` that prevented it.

    `tokens` includes the stop token if the answer ended with one. `fresh` means that the page differs from the previous
    item's, so that its image features were not cached. `size` and `resized` are (width, height) of the page before and
    after resizing for the model. `image_tokens` were in the prompt, and `pruned_tokens` were left out of it. A server
    does not say its `tokens`, but how many it has `generated`; `prefix` is its agreement with the reference. Its
    `decode_seconds` are 0 if the answer came as one piece.
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
    image_tokens: int = 0
    pruned_tokens: int = 0
    agreement: Agreement | None = None
    generated: int | None = None
    prefix: PrefixAgreement | None = None
    error: str = ""


class Cost(msgspec.Struct, frozen=True):
    """Load time and peak memory of a process, or of all processes of a model."""

    load_seconds: float
    peak_memory_mb: float

    def save(self, directory: Path, name: str, rank: int) -> None:
        """Writes the file of one process atomically."""
        with atomic_file(self.path(directory, name, rank)) as file:
            file.write(msgspec.json.encode(self))

    @staticmethod
    def path(directory: Path, name: str, rank: int | str) -> Path:
        """Returns the file of one process, or with rank `*` the pattern of all."""
        return directory / f"{name}.{rank}.cost.json"

    @staticmethod
    def remove_beyond(directory: Path, name: str, workers: int) -> None:
        """Deletes the files of processes of rank `workers` or above, from an earlier run with more processes."""
        for path in directory.glob(Cost.path(directory, name, "*").name):
            if int(path.name.split(".")[-3]) >= workers:
                path.unlink()

    @staticmethod
    def load(directory: Path, name: str) -> Cost | None:
        """Returns the longest load time and the total memory of all processes; None if there are no files."""
        costs = [
            msgspec.json.decode(path.read_bytes(), type=Cost)
            for path in sorted(directory.glob(Cost.path(directory, name, "*").name))
        ]
        if not costs:
            return None
        return Cost(max(cost.load_seconds for cost in costs), sum(cost.peak_memory_mb for cost in costs))


class _Header(msgspec.Struct):
    """The part of a record that shows whether its item was answered."""

    item: int = 0
    error: str = ""


class Records:
    """The answers of one model by item; only their offsets in the files are in memory."""

    def __init__(self, directory: Path, name: str) -> None:
        self._offsets: dict[int, tuple[Path, int]] = {}
        self.failed: set[int] = set()
        for path in sorted(directory.glob(f"{name}.*.jsonl")):
            self._scan(path)

    def _scan(self, path: Path) -> None:
        offset = 0
        with path.open("rb") as file:
            for line in file:
                with contextlib.suppress(msgspec.MsgspecError):  # the line that a killed process was writing
                    self._add(msgspec.json.decode(line, type=_Header), (path, offset))
                offset += len(line)

    def _add(self, header: _Header, location: tuple[Path, int]) -> None:
        """Adds a record. A failure never replaces an answer: files are not read in the order they were written."""
        answered = header.item in self._offsets and header.item not in self.failed
        if header.error and answered:
            return
        self._offsets[header.item] = location
        (self.failed.add if header.error else self.failed.discard)(header.item)

    def __len__(self) -> int:
        """Number of items answered."""
        return len(self._offsets) - len(self.failed)

    def get(self, item: int) -> Record | None:
        """Returns the last record of an item, which may be a failure; None if there is none."""
        if item not in self._offsets:
            return None
        path, offset = self._offsets[item]
        with path.open("rb") as file:
            file.seek(offset)
            return msgspec.json.decode(file.readline(), type=Record)

    def answered(self, item: int) -> Record | None:
        """Returns the record of an item that did not fail, otherwise None; the next run repeats failed items."""
        return None if item in self.failed else self.get(item)


@contextlib.contextmanager
def record_writer(directory: Path, name: str, rank: int) -> Iterator[Callable[[Record], None]]:
    """Yields a function that appends a record; a partial line left by a killed process is cut off first."""
    path = directory / f"{name}.{rank}.jsonl"
    with path.open("ab+") as file:
        _truncate_partial_line(file)

        def append(record: Record) -> None:
            file.write(msgspec.json.encode(record) + b"\n")
            file.flush()

        yield append


def _truncate_partial_line(file: BinaryIO) -> None:
    """Truncates the file after its last line break."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - CHUNK)
        file.seek(start)
        if (found := file.read(end - start).rfind(b"\n")) >= 0:
            end = start + found + 1
            break
        end = start
    file.truncate(end)
