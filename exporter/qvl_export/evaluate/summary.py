"""From the records of two or more models to the report's figures."""

from __future__ import annotations

import statistics
import time
from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .. import __version__
from .boxes import PageGeometry
from .dataset import EvalSet
from .metrics import TASKS, score
from .records import Cost, Record, Records
from .results import BundleReport, ReferenceReport, Report, Speed
from .tally import AgreementTally, Tally
from .verdict import give_verdict


@dataclass(frozen=True)
class Contender:
    """A model that answered: what it is, what it cost, and its records."""

    title: str
    path: str
    precisions: str
    family: str
    size_mb: float
    cost: Cost
    records: Records


def summarise(chosen: EvalSet, reference: Contender, others: Sequence[Contender], noise: Records | None) -> Report:
    """Compare records item by item; items that the reference failed at are counted and left out."""
    tallies, floor = [(other, Tally()) for other in others], AgreementTally()
    totals: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(lambda: [0.0, 0.0]))
    tasks: dict[str, int] = defaultdict(int)
    failed = 0
    for item in chosen.items():
        record = reference.records.get(item.index)
        tasks[item.label.task] += 1
        if record is None or record.error:
            failed += 1
            continue
        page = PageGeometry(reference.family or others[0].family, record.size, record.resized)
        scored = score(item.label.task, record.answer, item.label.answers, page)
        for metric, fraction in scored.items():
            total = totals[item.label.task][metric]
            total[0], total[1] = total[0] + fraction[0], total[1] + fraction[1]
        for other, tally in tallies:
            own = other.records.get(item.index) or Record(error="not answered")
            tally.add(item, record, scored, own, other.family)
        if noise is not None and (again := noise.get(item.index)) is not None:
            floor.add(record, again)
    ordered = [task for task in TASKS if totals.get(task)]
    return Report(
        producer=f"qvl-export {__version__}",
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        data=str(chosen.directory),
        data_sha256=chosen.digest,
        items=chosen.count,
        of_items=chosen.total,
        tasks={task: tasks[task] for task in TASKS if task in tasks},
        reference=ReferenceReport(
            **_described(reference, chosen, failed),
            rates={task: {m: n / d if d else 0.0 for m, (n, d) in totals[task].items()} for task in ordered},
        ),
        bundles=[_bundle(other, tally, chosen, ordered) for other, tally in tallies],
        noise=floor.summary(),
    )


def _bundle(other: Contender, tally: Tally, chosen: EvalSet, tasks: Sequence[str]) -> BundleReport:
    scores, agreed = tally.by_metric(tasks), tally.agreement.summary()
    identical = agreed is not None and agreed.same_answers == agreed.items
    return BundleReport(
        **_described(other, chosen, tally.failed),
        verdict=give_verdict(tally.findings(tasks), identical, tally.failed, scores),
        scores=scores,
        by_kind=tally.grouped("kind:"),
        by_length=tally.grouped("length:"),
        agreement=agreed,
        worst=tally.worst_first(),
    )


def _described(model: Contender, chosen: EvalSet, failed: int) -> dict[str, Any]:
    """The fields of `ModelReport`."""
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
    """Medians and sums of the times in the records."""
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
