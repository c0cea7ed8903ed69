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

from ...common.atomic_output import atomic_file
from ..statistics import Collector, Part
from .expert_tokens import Routed
from .layer_session import open_session, run, through
from .work_dir import Floats, Sample

if TYPE_CHECKING:
    from qvl_runtime._onnxruntime.library import ort

SHARD_PAGES = 16


class Tap(msgspec.Struct, frozen=True):
    """A stage's output, the name of a linear applied to it, and whether its Hessian is needed."""

    output: str
    linear: str
    hessian: bool


class Watch(msgspec.Struct, frozen=True):
    """What to collect from a stage over `pages` pages.

    `routed` names the outputs with the experts' inputs and the router's scores; each token goes to `chosen` experts.
    """

    taps: list[Tap]
    pages: int
    routed: tuple[str, str] | None
    chosen: int

    @property
    def outputs(self) -> list[str]:
        return [*(tap.output for tap in self.taps), *(self.routed or ())]

    def collectors(self) -> list[Collector]:
        """One empty collector per tap."""
        return [Collector(tap.linear, self.pages, tap.hessian) for tap in self.taps]


class Found(NamedTuple):
    """A shard's contribution to the statistics of every tap, in tap order, and its tokens routed to experts."""

    parts: Iterable[Part]
    routed: Routed | None


class Runner(Protocol):
    """Runs a stage over all its pages."""

    def observed(self, model: Path, watch: Watch) -> Iterator[Found]:
        """Yields the statistics of each shard in order; raises ExportError if activations are not finite."""

    def outputs(self, model: Path) -> Iterable[Floats]:
        """Returns the next stage's inputs, page by page, except those that are saved already."""


@dataclass(frozen=True)
class Here:
    """Runs a stage in this process; each call of `samples` starts a new iteration over the samples."""

    samples: Callable[[], Iterable[Sample]]
    directory: Path

    def observed(self, model: Path, watch: Watch) -> Iterator[Found]:
        """See `Runner.observed`."""
        session, samples = open_session(model), iter(self.samples())
        for shard in shards(watch.pages):
            yield gather(session, islice(samples, len(shard)), watch, self.directory / tokens_file(shard))

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


def gather(session: ort.InferenceSession, samples: Iterable[Sample], watch: Watch, tokens: Path) -> Found:
    """Runs the pages of a shard and collects statistics; tokens routed to experts go to the file `tokens`."""
    collectors, outputs = watch.collectors(), watch.outputs
    routed = Routed(tokens, watch.chosen) if watch.routed else None
    with atomic_file(tokens) if routed else contextlib.nullcontext() as file:
        for sample in samples:
            values = run(session, sample, outputs)
            for collector, value in zip(collectors, values[: len(collectors)], strict=True):
                collector.add(value.reshape(-1, value.shape[-1]))
            if routed and file:
                routed.add(file, values[-2], values[-1])
    return Found([collector.part() for collector in collectors], routed)


def write(found: Found, file: IO[bytes]) -> None:
    """Writes the arrays one after another, in the order that `read` expects."""
    if found.routed:
        np.save(file, np.concatenate(found.routed.experts))
        np.save(file, np.concatenate(found.routed.shares))
    for part in found.parts:
        for array in part:
            if array is not None:
                np.save(file, array)


def read(file: IO[bytes], watch: Watch, tokens: Path) -> Found:
    """Reads the output of `write`; parts are read lazily."""
    routed = Routed(tokens, watch.chosen, [np.load(file)], [np.load(file)]) if watch.routed else None
    parts = (Part(np.load(file), np.load(file), np.load(file) if tap.hessian else None) for tap in watch.taps)
    return Found(parts, routed)
