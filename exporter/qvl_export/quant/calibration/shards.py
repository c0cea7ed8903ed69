"""Collects the input statistics of a stage's linears per shard, a fixed range of pages with its own sums.

Shards are added in page order wherever they were collected, so that one machine and many give the same bits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple, Protocol

import msgspec
import numpy as np

from ...common.arrays import Floats
from ...common.atomic_output import atomic_file
from ..statistics import Collector, PartialStatistics
from .expert_tokens import Routed
from .layer_session import open_session, run, through
from .work_dir import Sample

if TYPE_CHECKING:
    from qvl_runtime._onnxruntime.library import ort

SHARD_PAGES = 16


class CapturedInput(msgspec.Struct, frozen=True):
    """An output of a stage, the name of a linear that takes it as input, and whether its Hessian is needed."""

    output: str
    linear: str
    hessian: bool


class CaptureRequest(msgspec.Struct, frozen=True):
    """The inputs to capture from a stage over `pages` pages.

    `routed` names the outputs with the experts' inputs and the router's scores; each token goes to `chosen` experts.
    """

    inputs: list[CapturedInput]
    pages: int
    routed: tuple[str, str] | None
    chosen: int

    @property
    def outputs(self) -> list[str]:
        return [*(captured.output for captured in self.inputs), *(self.routed or ())]

    def collectors(self) -> list[Collector]:
        """One empty collector per input."""
        return [Collector(captured.linear, self.pages, captured.hessian) for captured in self.inputs]


class ShardStatistics(NamedTuple):
    """A shard's contribution to the statistics of every captured input, in order, and its tokens routed to experts."""

    parts: Iterable[PartialStatistics]
    routed: Routed | None


class Runner(Protocol):
    """Runs a stage over all its pages."""

    def statistics(self, model: Path, request: CaptureRequest) -> Iterator[ShardStatistics]:
        """Yields the statistics of each shard in order; raises ExportError if activations are not finite."""

    def outputs(self, model: Path) -> Iterable[Floats]:
        """Returns the next stage's inputs, page by page, except those that are saved already."""


@dataclass(frozen=True)
class LocalRunner:
    """Runs a stage in this process; each call of `samples` starts a new iteration over the samples."""

    samples: Callable[[], Iterable[Sample]]
    directory: Path

    def statistics(self, model: Path, request: CaptureRequest) -> Iterator[ShardStatistics]:
        """See `Runner.statistics`."""
        session, samples = open_session(model), iter(self.samples())
        for shard in shards(request.pages):
            yield collect_shard(session, islice(samples, len(shard)), request, self.directory / tokens_file(shard))

    def outputs(self, model: Path) -> Iterator[Floats]:
        """See `Runner.outputs`."""
        session = open_session(model)
        return (through(session, sample) for sample in self.samples())


def shards(pages: int) -> list[range]:
    """The pages of each shard."""
    return [range(first, min(first + SHARD_PAGES, pages)) for first in range(0, pages, SHARD_PAGES)]


def tokens_file(shard: range) -> str:
    """File name of a shard's tokens routed to experts."""
    return f"routed.{shard.start}.bin"


def collect_shard(
    session: ort.InferenceSession, samples: Iterable[Sample], request: CaptureRequest, tokens: Path
) -> ShardStatistics:
    """Runs the pages of a shard and collects statistics; tokens routed to experts go to the file `tokens`."""
    collectors, outputs = request.collectors(), request.outputs
    routed = Routed(tokens, request.chosen) if request.routed else None
    with atomic_file(tokens) if routed else contextlib.nullcontext() as file:
        for sample in samples:
            values = run(session, sample, outputs)
            for collector, value in zip(collectors, values[: len(collectors)], strict=True):
                collector.add(value.reshape(-1, value.shape[-1]))
            if routed and file:
                routed.add(file, values[-2], values[-1])
    return ShardStatistics([collector.part() for collector in collectors], routed)


def write(statistics: ShardStatistics, file: IO[bytes]) -> None:
    """Writes the arrays one after another, in the order that `read` expects."""
    if statistics.routed:
        np.save(file, np.concatenate(statistics.routed.experts))
        np.save(file, np.concatenate(statistics.routed.shares))
    for part in statistics.parts:
        for array in part:
            if array is not None:
                np.save(file, array)


def read(file: IO[bytes], request: CaptureRequest, tokens: Path) -> ShardStatistics:
    """Reads the output of `write`; parts are read lazily."""
    routed = Routed(tokens, request.chosen, [np.load(file)], [np.load(file)]) if request.routed else None
    parts = (
        PartialStatistics(np.load(file), np.load(file), np.load(file) if captured.hessian else None)
        for captured in request.inputs
    )
    return ShardStatistics(parts, routed)
