"""One model answers an evaluation set in a process of its own: `python -m qvl_export.evaluate.answers.worker`.

Results are appended item by item, so that a killed comparison can be resumed; a failing item is recorded as failed. No
part of the exporter that needs onnx or PyTorch is imported (except for the PyTorch reference), so that the reported
peak memory is the runtime's.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import msgspec

from qvl_runtime.errors import QvlError

from ...errors import StoppedError
from ...jobs.worker import run_job
from ..sets.dataset import EvalSet, Item
from .answerers import HF, Answerer, BundleAnswerer
from .endpoint_names import Endpoint
from .peak_memory import PeakMemory
from .prefix_agreement import PrefixAgreement
from .records import Cost, Record, Records, record_writer
from .token_agreement import Agreement, StoredDistributions, compare_distributions, compress_distributions

FAILURES = (QvlError, ArithmeticError, ValueError, TypeError, RuntimeError, OSError, MemoryError)
"""Exceptions that are recorded as an item's failure."""


class AnswerJob(msgspec.Struct, frozen=True):
    """The work of one process: one model answers the items of a set whose number is `rank` modulo `workers`.

    `engine` is "bundle", "hf" or "endpoint". A `reference` writes its distributions to `scratch`; others are compared
    with them. `prune` replaces a bundle's default. An `endpoint` is asked in place of a model; `model` is then the
    reference, whose tokenizer says what its tokens are.
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
    prune: str | float | None = None
    endpoint: Endpoint | None = None

    def items(self) -> Iterator[Item]:
        """Yields this process's share of the items."""
        everything = EvalSet(Path(self.data), self.total, self.digest, self.chosen).items()
        return (item for number, item in enumerate(everything) if number % self.workers == self.rank)

    def distributions(self, index: int) -> Path:
        """Returns the file of the reference's distributions along its answer to an item."""
        return Path(self.scratch) / f"{index}.npz"


def open_answerer(job: AnswerJob) -> Answerer:
    """Loads the model of a job."""
    if job.endpoint is not None:
        from .endpoint_answerer import EndpointAnswerer

        return EndpointAnswerer(job.endpoint, job.template_args, Path(job.model))
    if job.engine == HF:
        from .transformers_reference import HfAnswerer

        return HfAnswerer(job.model, job.threads, job.template_args, job.use_generation_config)
    return BundleAnswerer(job.model, job.threads, job.template_args, job.use_generation_config, job.prune)


def run(
    job: AnswerJob, output: TextIO = sys.stdout, open_model: Callable[[AnswerJob], Answerer] = open_answerer
) -> None:
    """Answers the remaining items; writes one line per item to `output`: `.`, or `x` for a failure."""
    directory = Path(job.records)
    done, memory, began = Records(directory, job.name), PeakMemory(), time.perf_counter()
    model, seconds = open_model(job), time.perf_counter() - began
    memory.update()
    answered = False  # by this process
    with record_writer(directory, job.name, job.rank) as append:
        for _, items in groupby(job.items(), lambda item: item.image):
            model.clear_cache()
            for pending in _remaining(job, items, done):
                for earlier in pending.skipped:
                    _prefill(job, model, earlier)
                record = _answer_item(job, model, pending.item, pending.known, memory)
                if pending.known is None:
                    append(msgspec.structs.replace(record, item=pending.item.index, fresh=pending.fresh))
                    answered = True
                    print("x" if record.error else ".", file=output, flush=True)
    if answered or not Cost.path(directory, job.name, job.rank).is_file():  # teacher-forced runs alone show no cost
        Cost(round(seconds, 3), memory.megabytes).save(directory, job.name, job.rank)


class _Pending(NamedTuple):
    """An item to run, its `known` record, the items `skipped` before it, and whether it is the first of its page."""

    item: Item
    known: Record | None
    skipped: list[Item]
    fresh: bool


def _remaining(job: AnswerJob, items: Iterable[Item], done: Records) -> Iterator[_Pending]:
    """Yields the items of one page that remain to be run.

    Items answered by an earlier run are skipped. They are only prefilled, without an answer, so that a resumed run has
    the same bits in the KV cache as an uninterrupted one.
    """
    skipped: list[Item] = []
    for number, item in enumerate(items):
        known = done.answered(item.index)
        if known is None or (job.reference and not job.distributions(item.index).is_file()):
            yield _Pending(item, known, skipped, number == 0)
            skipped = []
        else:
            skipped.append(item)


def _answer_item(job: AnswerJob, model: Answerer, item: Item, known: Record | None, memory: PeakMemory) -> Record:
    """Returns the answer and agreement of one item; a failure becomes the record's error, unless all would fail."""
    messages = _messages(item)
    try:
        if known:
            model.prefill(messages, job.max_new_tokens)
        with memory.counting():
            record = known or model.answer(messages, job.max_new_tokens)
        if job.reference:
            distributions = compress_distributions(model.logits(messages, record.tokens), record.tokens)
            distributions.save(job.distributions(item.index))
            return record
        if job.endpoint is not None:
            return msgspec.structs.replace(record, prefix=_prefix(job, model, item.index))
        return msgspec.structs.replace(record, agreement=_agreement(job, model, messages, item.index))
    except StoppedError:
        raise
    except FAILURES as error:
        return Record(error=f"{type(error).__name__}: {error}"[:500])


def _prefill(job: AnswerJob, model: Answerer, item: Item) -> None:
    with contextlib.suppress(*FAILURES):
        model.prefill(_messages(item), job.max_new_tokens)


def _messages(item: Item) -> list[dict[str, Any]]:
    parts = [{"type": "image", "image": str(item.image)}, {"type": "text", "text": item.label.prompt}]
    return [{"role": "user", "content": parts}]


def _agreement(job: AnswerJob, model: Answerer, messages: list[dict[str, Any]], index: int) -> Agreement | None:
    """Returns the agreement with the reference; None if the reference has no answer to this item."""
    if not job.distributions(index).is_file():
        return None
    stored = StoredDistributions.load(job.distributions(index))
    return compare_distributions(stored, model.logits(messages, stored.tokens.tolist()))


def _prefix(job: AnswerJob, model: Answerer, index: int) -> PrefixAgreement | None:
    """Returns the agreement of a server's last answer with the reference's; None if there is nothing to compare."""
    from .endpoint_answerer import EndpointAnswerer

    if not isinstance(model, EndpointAnswerer) or not job.distributions(index).is_file():
        return None
    return model.agreement(StoredDistributions.load(job.distributions(index)))


def main() -> int:
    """Runs the job on standard input."""
    return run_job(AnswerJob, run)


if __name__ == "__main__":
    sys.exit(main())
