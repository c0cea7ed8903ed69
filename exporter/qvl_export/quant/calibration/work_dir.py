"""The work directory of one tower's calibration: a killed run can resume, and memory holds one page at a time."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from ...checkpoint.safetensors_reader import StoredTensor
from ...common.arrays import Floats
from ...common.atomic_output import atomic_file
from ...common.log import log
from ...qtensor import QTensor, QuantFormat
from .saved_linear import SavedLinear

Feeds = dict[str, npt.NDArray[Any]]


class Sample(NamedTuple):
    """One page: the `hidden` input of a stage, and the other inputs, which are the same for every stage."""

    hidden: Floats
    feeds: Feeds


class LinearRecord(msgspec.Struct, frozen=True):
    """The result for a linear: its format (None if it stays float), its shape [N, K], and its SQNR in dB."""

    format: QuantFormat | None
    shape: tuple[int, int]
    sqnr: float | None


class StageRecord(msgspec.Struct, frozen=True):
    """The result of a stage: its linears, the shapes of rewritten float tensors, the divisors of outputs that are
    stored in the KV cache, and how many expert matrices had too few tokens for GPTQ."""

    linears: dict[str, LinearRecord]
    tensors: dict[str, list[int]]
    cache_scales: dict[str, list[float]] = {}
    rounded_experts: int = 0


@dataclass(frozen=True)
class TowerResult:
    """A tower's quantized linears, and the float tensors that differ from the checkpoint's.

    `cache_scales` are the divisors of those linears' outputs that are stored in the KV cache.
    """

    linears: Mapping[str, SavedLinear] = field(default_factory=dict)
    tensors: Mapping[str, StoredTensor] = field(default_factory=dict)
    cache_scales: Mapping[str, Floats] = field(default_factory=dict)

    @property
    def formats(self) -> dict[str, QuantFormat]:
        return {name: linear.format() for name, linear in self.linears.items()}


def _digest(key: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


class Work:
    """A work directory: samples, hidden states between stages, and results of finished stages."""

    def __init__(self, directory: Path, key: Mapping[str, object] | None = None) -> None:
        """Resumes in the subdirectory of `directory` for `key`, or starts afresh; without a key, uses `directory`.

        Each key has its own subdirectory: a job of a killed run with another key, still running on another machine,
        finds its subdirectory gone.
        """
        self.directory = directory if key is None else directory / _digest(key)
        other = "new, since the key differs" if directory.is_dir() else "new"
        log.debug("work directory: %s, %s", self.directory, "resumed" if self.directory.is_dir() else other)
        if key is not None and not self.directory.is_dir():
            shutil.rmtree(directory, ignore_errors=True)
            self.directory.mkdir(parents=True)

    def begin(self, samples: Iterable[Sample]) -> None:
        """Saves the samples, unless an earlier run did."""
        if (self.directory / "pages").is_file():
            return
        count = 0
        for count, sample in enumerate(samples, 1):
            self.keep(0, count - 1, sample.hidden)
            with atomic_file(self.directory / f"feeds.{count - 1}.npz") as file:
                np.savez(file, **sample.feeds)  # type: ignore[arg-type]
        self._write("pages", str(count).encode())

    @property
    def pages(self) -> int:
        return int((self.directory / "pages").read_text())

    def keep(self, stage: int, page: int, hidden: Floats) -> None:
        """Saves the hidden states of a page that are the input of stage number `stage`."""
        with atomic_file(self._hidden(stage, page)) as file:
            np.save(file, hidden)

    def samples(self, stage: int, pages: Iterable[int] | None = None) -> Iterator[Sample]:
        """Yields the inputs of stage number `stage`, page by page, for `pages` or for all."""
        for page in range(self.pages) if pages is None else pages:
            with np.load(self.directory / f"feeds.{page}.npz") as feeds:
                yield Sample(np.load(self._hidden(stage, page)), dict(feeds))

    def finish(self, stage: int, record: StageRecord, outputs: Iterable[Floats]) -> None:
        """Saves the stage's `outputs` (those not saved yet), then its record, then removes its inputs."""
        for page, hidden in enumerate(outputs):
            self.keep(stage + 1, page, hidden)
        self._write(f"stage.{stage}.json", msgspec.json.encode(record))
        for page in range(self.pages):
            self._hidden(stage, page).unlink(missing_ok=True)

    def record(self, stage: int) -> StageRecord | None:
        """The result of a finished stage, or None."""
        path = self.directory / f"stage.{stage}.json"
        return msgspec.json.decode(path.read_bytes(), type=StageRecord) if path.is_file() else None

    def save(self, name: str, tensor: QTensor) -> None:
        """Saves a quantized linear."""
        rows, columns = tensor.codes.shape
        SavedLinear(name, self.directory / f"{name}.npz", tensor.format, rows, columns).save(tensor)

    def save_tensor(self, name: str, values: Floats) -> None:
        """Saves a rewritten float tensor."""
        self._write(f"{name}.bin", np.ascontiguousarray(values, np.float32).tobytes())

    def tensors(self, record: StageRecord) -> dict[str, StoredTensor]:
        """The float tensors that a stage rewrote."""
        return {
            name: StoredTensor(name, self.directory / f"{name}.bin", np.dtype(np.float32), tuple(shape), 0)
            for name, shape in record.tensors.items()
        }

    def linears(self, record: StageRecord) -> dict[str, SavedLinear]:
        """The linears that a stage quantized."""
        return {
            name: SavedLinear(name, self.directory / f"{name}.npz", found.format, *found.shape)
            for name, found in record.linears.items()
            if found.format
        }

    def quantized(self, *records: StageRecord) -> TowerResult:
        """Combines the results of several stages."""
        return TowerResult(
            {name: linear for record in records for name, linear in self.linears(record).items()},
            {name: tensor for record in records for name, tensor in self.tensors(record).items()},
            {name: np.array(scale, np.float32) for record in records for name, scale in record.cache_scales.items()},
        )

    def _hidden(self, stage: int, page: int) -> Path:
        return self.directory / f"hidden.{stage}.{page}.npy"

    def _write(self, name: str, content: bytes) -> None:
        with atomic_file(self.directory / name) as file:
            file.write(content)
