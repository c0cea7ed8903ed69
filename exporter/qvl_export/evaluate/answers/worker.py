"""One model answers an evaluation set in a process of its own: `python -m qvl_export.evaluate.answers.worker`.

Results are appended item by item, so that a killed comparison can be resumed; a failing item is recorded as failed. No
part of the exporter that needs onnx or PyTorch is imported (except for the PyTorch reference), so that the reported
peak memory is the runtime's.
"""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TextIO

import msgspec
import numpy as np
import numpy.typing as npt

from qvl_runtime.errors import QvlError

from ...jobs.worker import serve
from ..sets.dataset import EvalSet, Item
from .agreement import Agreement, Kept, agreement, keep
from .records import Cost, Record, Records, appending

HF = "hf"
FAILURES = (QvlError, ArithmeticError, ValueError, TypeError, RuntimeError, OSError, MemoryError)
"""Exceptions that are recorded as an item's failure."""
Floats = npt.NDArray[np.float32]


class Job(msgspec.Struct, frozen=True):
    """The work of one process: one model answers the items of a set whose number is `rank` modulo `workers`.

    `engine` is "bundle" or "hf". A `reference` writes its distributions to `scratch`; others are compared with them.
    """

    model: str
    engine: str
    data: str
    total: int
    digest: str
    chosen: tuple[int, ...] | None
    records: str
    name: str
    scratch: str
    reference: bool
    threads: int | None
    max_new_tokens: int | None
    use_generation_config: bool = False
    rank: int = 0
    workers: int = 1
    template_args: dict[str, Any] = {}

    def items(self) -> Iterator[Item]:
        """Yields this process's share of the items."""
        everything = EvalSet(Path(self.data), self.total, self.digest, self.chosen).items()
        return (item for number, item in enumerate(everything) if number % self.workers == self.rank)


class Answerer(Protocol):
    """A loaded model, see `BundleAnswerer` and `transformers_reference.HfAnswerer`."""

    def answer(self, messages: list[dict[str, Any]], limit: int | None) -> Record:
        """Returns a record with the answer, its tokens (including the stop token), times and sizes."""

    def logits(self, messages: list[dict[str, Any]], tokens: list[int]) -> Floats:
        """Returns teacher-forced logits [tokens, vocab]."""

    def forget(self) -> None:
        """Drops the KV cache, so that the next answer is computed like the first; image features may stay cached."""

    def prime(self, messages: list[dict[str, Any]], limit: int | None) -> None:
        """Brings the model into the state after `answer`, so that the page's next answer is the same bit for bit."""


class BundleAnswerer:
    """A bundle in the runtime, as users run it."""

    def __init__(
        self, path: str, threads: int | None, template_args: dict[str, Any], use_generation_config: bool = False
    ) -> None:
        from qvl_runtime import load

        self._model, self._template_args = load(path, threads), template_args
        self._patch = self._model.manifest.image.patch_size
        self._recommended = use_generation_config

    def answer(self, messages: list[dict[str, Any]], limit: int | None) -> Record:
        stream = self._model.stream(
            messages,
            limit,
            seed=0,
            template_args=self._template_args,
            use_generation_config=self._recommended,
        )
        text, run = "".join(stream), stream.run
        placed = stream.prompt.placed if stream.prompt else ()
        size = placed[0].media.frames[0].size if placed else (1, 1)
        resized = (placed[0].grid.w * self._patch, placed[0].grid.h * self._patch) if placed else size
        return Record(
            answer=text,
            tokens=[*run.tokens, *([] if run.stop_token is None else [run.stop_token])],
            finish_reason=run.finish_reason or "",
            first_token_seconds=round(run.times.first_token, 5),
            decode_seconds=round(run.times.decode, 5),
            size=size,
            resized=resized,
        )

    def logits(self, messages: list[dict[str, Any]], tokens: list[int]) -> Floats:
        return self._model.logits(messages, tokens, template_args=self._template_args)

    def forget(self) -> None:
        self._model.decoder.clear()

    def prime(self, messages: list[dict[str, Any]], limit: int | None) -> None:
        next(self._model.stream(messages, limit, template_args=self._template_args), None)


def run(job: Job, told: TextIO = sys.stdout) -> None:
    """Answers the remaining items; writes one line per item to `told`: `.`, or `x` for a failure."""
    directory = Path(job.records)
    done, memory, began = Records(directory, job.name), PeakMemory(), time.perf_counter()
    model, seconds = _open(job), time.perf_counter() - began
    memory.take()
    answered = False
    with appending(directory, job.name, job.rank) as append:
        for _, items in groupby(job.items(), lambda item: item.image):
            model.forget()
            for turn in _turns(job, items, done):
                for earlier in turn.unasked:
                    _prime(job, model, earlier)
                record = _item(job, model, turn.item, turn.known, memory)
                if turn.known is None:
                    append(msgspec.structs.replace(record, item=turn.item.index, fresh=turn.fresh))
                    answered = True
                    print("x" if record.error else ".", file=told, flush=True)
    if answered or not Cost.place(directory, job.name, job.rank).is_file():  # teacher-forced runs alone show no cost
        Cost(round(seconds, 3), memory.megabytes).save(directory, job.name, job.rank)


class _Turn(NamedTuple):
    """An item to run, the `unasked` items before it that an earlier run did, and whether it is its page's first."""

    item: Item
    known: Record | None
    unasked: list[Item]
    fresh: bool


def _turns(job: Job, items: Iterable[Item], done: Records) -> Iterator[_Turn]:
    """Yields the items of one page that remain to be run.

    Items answered by an earlier run are prefilled again, without an answer, so that a resumed run has the same bits in
    the KV cache as an uninterrupted one.
    """
    unasked: list[Item] = []
    for number, item in enumerate(items):
        known = done.answered(item.index)
        if known is None or (job.reference and not _scratch(job, item.index).is_file()):
            yield _Turn(item, known, unasked, number == 0)
            unasked = []
        else:
            unasked.append(item)


def _open(job: Job) -> Answerer:
    if job.engine == HF:
        from .transformers_reference import HfAnswerer

        return HfAnswerer(job.model, job.threads, job.template_args, job.use_generation_config)
    return BundleAnswerer(job.model, job.threads, job.template_args, job.use_generation_config)


def _scratch(job: Job, index: int) -> Path:
    return Path(job.scratch) / f"{index}.npz"


def _item(job: Job, model: Answerer, item: Item, known: Record | None, memory: PeakMemory) -> Record:
    """Returns the answer and agreement of one item; a failure becomes the record's error."""
    messages = _messages(item)
    try:
        if known:
            model.prime(messages, job.max_new_tokens)
        with memory.counting():
            record = known or model.answer(messages, job.max_new_tokens)
        if job.reference:
            keep(model.logits(messages, record.tokens), record.tokens).save(_scratch(job, item.index))
            return record
        return msgspec.structs.replace(record, agreement=_agreement(job, model, messages, item.index))
    except FAILURES as error:
        return Record(error=f"{type(error).__name__}: {error}"[:500])


def _prime(job: Job, model: Answerer, item: Item) -> None:
    with contextlib.suppress(*FAILURES):
        model.prime(_messages(item), job.max_new_tokens)


def _messages(item: Item) -> list[dict[str, Any]]:
    parts = [{"type": "image", "image": str(item.image)}, {"type": "text", "text": item.label.prompt}]
    return [{"role": "user", "content": parts}]


def _agreement(job: Job, model: Answerer, messages: list[dict[str, Any]], index: int) -> Agreement | None:
    """Returns the agreement with the reference; None if the reference has no answer to this item."""
    if not _scratch(job, index).is_file():
        return None
    kept = Kept.load(_scratch(job, index))
    return agreement(kept, model.logits(messages, kept.tokens.tolist()))


class PeakMemory:
    """Peak resident memory while answering, in MB; teacher-forced runs of a comparison are not counted.

    Linux resets its high-water mark when 5 is written to clear_refs; on other systems all runs are counted.
    """

    def __init__(self) -> None:
        self._peak = 0.0

    @property
    def megabytes(self) -> float:
        return round(max(self._peak, 0.0), 1)

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        yield
        self.take()

    def take(self) -> None:
        """Updates the peak from the process's high-water mark."""
        self._peak = max(self._peak, _high_water())


def _high_water() -> float:
    with contextlib.suppress(OSError):
        if found := re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text()):
            return int(found[1]) * 1024 / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def main() -> int:
    """Runs the job that standard input holds."""
    return serve(Job, run)


if __name__ == "__main__":
    sys.exit(main())
