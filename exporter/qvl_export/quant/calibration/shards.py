"""What a stage's linears are applied to, gathered shard by shard: fixed runs of pages, each summed on its own.

Shards are added in the order of their pages wherever they were gathered, so that one machine and many come to the same
bits.
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

from ...common.atomic_output import written
from ..statistics import Collector, Part
from .expert_tokens import Routed
from .layer_session import open_session, run, through
from .work_dir import Floats, Sample

if TYPE_CHECKING:
    from qvl_runtime._onnxruntime.library import ort

SHARD_PAGES = 16


class Tap(msgspec.Struct, frozen=True):
    """An output of a stage, a linear that is applied to it, and whether its Hessian is wanted."""

    output: str
    linear: str
    hessian: bool


class Watch(msgspec.Struct, frozen=True):
    """What to gather of a stage over `pages` pages, image tokens counting `vision_weight`.

    `routed` are the outputs that tell what goes to `chosen` experts each.
    """

    taps: list[Tap]
    pages: int
    vision_weight: float
    routed: tuple[str, str] | None
    chosen: int

    @property
    def outputs(self) -> list[str]:
        return [*(tap.output for tap in self.taps), *(self.routed or ())]

    def collectors(self) -> list[Collector]:
        """One a tap, empty."""
        return [Collector(tap.linear, self.pages, tap.hessian) for tap in self.taps]


class Found(NamedTuple):
    """What a shard adds to the statistics of every tap, in their order, and its tokens that go to experts."""

    parts: Iterable[Part]
    routed: Routed | None


class Runner(Protocol):
    """Runs a stage over all its pages."""

    def observed(self, model: Path, watch: Watch) -> Iterator[Found]:
        """Shard after shard; raises ExportError where activations are not finite."""

    def outputs(self, model: Path) -> Iterable[Floats]:
        """What the next stage takes, page by page, as far as it is not kept yet."""


@dataclass(frozen=True)
class Here:
    """In this process; `samples` begins them anew."""

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
    """The pages of each."""
    return [range(first, min(first + SHARD_PAGES, pages)) for first in range(0, pages, SHARD_PAGES)]


def tokens_file(shard: range) -> str:
    """Where the tokens are kept that a shard sends to experts."""
    return f"routed.{shard.start}.bin"


def gather(session: ort.InferenceSession, samples: Iterable[Sample], watch: Watch, tokens: Path) -> Found:
    """Run the pages of a shard; those that go to experts are kept in the file `tokens`."""
    collectors, outputs = watch.collectors(), watch.outputs
    routed = Routed(tokens, watch.chosen) if watch.routed else None
    with written(tokens) if routed else contextlib.nullcontext() as file:
        for sample in samples:
            values, counts = run(session, sample, outputs), token_weights(sample, watch.vision_weight)
            for collector, value in zip(collectors, values[: len(collectors)], strict=True):
                collector.add(value.reshape(-1, value.shape[-1]), counts)
            if routed and file:
                routed.add(file, values[-2], values[-1], counts)
    return Found([collector.part() for collector in collectors], routed)


def token_weights(sample: Sample, vision_weight: float) -> Floats | None:
    """What each token counts [T], where they do not all count the same."""
    places = sample.feeds.get("image_positions")
    if places is None or vision_weight == 1:
        return None
    counts = np.ones(sample.hidden.shape[1], np.float32)
    counts[places[:, 1]] = vision_weight
    return counts


def write(found: Found, file: IO[bytes]) -> None:
    """Arrays one after another, as `read` takes them."""
    if found.routed:
        np.save(file, np.concatenate(found.routed.experts))
        np.save(file, np.concatenate(found.routed.shares))
    for part in found.parts:
        for array in part:
            if array is not None:
                np.save(file, array)


def read(file: IO[bytes], watch: Watch, tokens: Path) -> Found:
    """What `write` wrote; each part is read when it is asked for."""
    routed = Routed(tokens, watch.chosen, [np.load(file)], [np.load(file)]) if watch.routed else None
    parts = (Part(np.load(file), np.load(file), np.load(file) if tap.hessian else None) for tap in watch.taps)
    return Found(parts, routed)
