"""Computes the report's figures from the records of two or more models."""

from __future__ import annotations

import statistics
import time
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ..._version import __version__
from ..answers.contender import Contender
from ..answers.records import Record, Records
from ..metrics.boxes import PageGeometry
from ..metrics.scores import TASKS, Fraction, score
from ..sets.dataset import EvalSet
from .recommendation import recommend
from .results import BundleReport, ReferenceReport, Report, Speed
from .tally import AgreementTally, Tally
from .verdict import directed, directed_groups, give_verdict


@dataclass
class _Totals:
    """Items by task, and the reference's own scores as sums of numerators and denominators."""

    items: Counter[str] = field(default_factory=Counter)
    scores: dict[str, dict[str, Fraction]] = field(default_factory=lambda: defaultdict(dict))
    failed: int = 0

    def add(self, task: str, scored: Mapping[str, Fraction]) -> None:
        for metric, fraction in scored.items():
            above, below = self.scores[task].get(metric, (0.0, 0.0))
            self.scores[task][metric] = above + fraction[0], below + fraction[1]

    @property
    def tasks(self) -> list[str]:
        """The scored tasks, in the order of TASKS."""
        return [task for task in TASKS if task in self.scores]

    def rates(self) -> dict[str, dict[str, float]]:
        return {task: {m: n / d if d else 0.0 for m, (n, d) in self.scores[task].items()} for task in self.tasks}


def summarise(chosen: EvalSet, reference: Contender, others: Sequence[Contender], noise: Records | None) -> Report:
    """Compares records item by item; items that failed in the reference are counted and left out."""
    tallies, floor, totals = [(other, Tally()) for other in others], AgreementTally(), _Totals()
    for item in chosen.items():
        task, record = item.label.task, reference.records.get(item.index)
        totals.items[task] += 1
        if record is None or record.error:
            totals.failed += 1
            continue
        page = PageGeometry(reference.family or others[0].family, record.size, record.resized)
        scored = score(task, record.answer, item.label.answers, page)
        totals.add(task, scored)
        for other, tally in tallies:
            own = other.records.get(item.index) or Record(error="not answered")
            tally.add(item, record, scored, own, other.family)
        if noise is not None and (again := noise.get(item.index)) is not None:
            floor.add(record, again)
    report = Report(
        producer=f"qvl-export {__version__}",
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        data=str(chosen.directory),
        data_sha256=chosen.digest,
        items=chosen.count,
        of_items=chosen.total,
        tasks={task: totals.items[task] for task in TASKS if task in totals.items},
        reference=ReferenceReport(**_described(reference, chosen, totals.failed), rates=totals.rates()),
        bundles=[_bundle(other, tally, chosen, totals.tasks) for other, tally in tallies],
        noise=floor.summary(),
    )
    return msgspec.structs.replace(report, recommendation=recommend(report))


def _bundle(other: Contender, tally: Tally, chosen: EvalSet, tasks: Sequence[str]) -> BundleReport:
    scores = directed(tally.by_metric(tasks))
    return BundleReport(
        **_described(other, chosen, tally.failed),
        verdict=give_verdict(tally.findings(tasks), bool(tasks) and not tally.differing, tally.failed, scores),
        scores=scores,
        by_kind=directed_groups(tally.grouped("kind:"), scores),
        by_length=directed_groups(tally.grouped("length:"), scores),
        agreement=tally.agreement.summary(),
        worst=tally.worst_first(),
    )


def _described(model: Contender, chosen: EvalSet, failed: int) -> dict[str, Any]:
    """Returns the fields of `ModelReport`."""
    return {
        "title": model.title,
        "path": model.path,
        "precisions": model.precisions,
        "family": model.family,
        "speed": speed(model, chosen),
        "answered": len(model.records),
        "failed": failed,
    }


def speed(contender: Contender, chosen: EvalSet) -> Speed:
    """Computes speeds from the times in the records."""
    first, decode, tokens, seconds, count = array("d"), 0.0, 0, 0.0, 0
    for record in _answered(contender.records, chosen):
        if record.fresh:
            first.append(record.first_token_seconds)
        decode += record.decode_seconds
        tokens += max(len(record.tokens) - 1, 0)
        seconds += record.first_token_seconds + record.decode_seconds
        count += 1
    return Speed(
        size_mb=round(contender.size_mb, 2),
        load_seconds=contender.cost.load_seconds,
        first_token_ms=round(1000 * statistics.median(first), 2) if first else 0.0,
        tokens_per_second=round(tokens / decode, 1) if decode else 0.0,
        seconds_per_item=round(seconds / max(count, 1), 4),
        peak_memory_mb=contender.cost.peak_memory_mb,
    )


def _answered(records: Records, chosen: EvalSet) -> Iterator[Record]:
    for item in chosen.items():
        if (record := records.answered(item.index)) is not None:
            yield record
