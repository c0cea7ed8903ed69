"""Computes a report from the records of two or more models."""

from __future__ import annotations

import statistics
import time
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from qvl_runtime.manifest import BoxNotation

from ..._version import __version__
from ..answers.model_result import ModelResult
from ..answers.records import Record, Records
from ..metrics.boxes import PageGeometry
from ..metrics.fraction import Fraction
from ..metrics.scores import TASKS, score
from ..sets.dataset import EvalSet
from .accumulators import AgreementAccumulator, ComparisonAccumulator
from .recommendation import recommend
from .results import BundleReport, ReferenceReport, Report, Speed
from .significance import groups_with_directions, with_directions
from .verdict import decide_verdict


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


def summarize(dataset: EvalSet, reference: ModelResult, others: Sequence[ModelResult], noise: Records | None) -> Report:
    """Compares records item by item; items that failed in the reference are counted and left out."""
    compared, noise_floor, totals = (
        [(other, ComparisonAccumulator()) for other in others],
        AgreementAccumulator(),
        _Totals(),
    )
    for item in dataset.items():
        task, record = item.label.task, reference.records.get(item.index)
        totals.items[task] += 1
        if record is None or record.error:
            totals.failed += 1
            continue
        page = PageGeometry(_notation(reference, *others), record.size, record.resized)
        scored = score(task, record.answer, item.label.answers, page)
        totals.add(task, scored)
        for other, comparison in compared:
            own = other.records.get(item.index) or Record(error="not answered")
            comparison.add(item, record, scored, own, _notation(other, reference, *others))
        if noise is not None and (again := noise.get(item.index)) is not None:
            noise_floor.add(record, again)
    report = Report(
        producer=f"qvl-export {__version__}",
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        data=str(dataset.directory),
        data_sha256=dataset.digest,
        items=dataset.count,
        of_items=dataset.total,
        tasks={task: totals.items[task] for task in TASKS if task in totals.items},
        reference=ReferenceReport(**_model_fields(reference, dataset, totals.failed), rates=totals.rates()),
        bundles=[
            _bundle(other, comparison, dataset, totals.tasks, _notation(other, reference, *others))
            for other, comparison in compared
        ],
        noise=noise_floor.summary(),
    )
    here = msgspec.structs.replace(report, bundles=[each for each in report.bundles if not each.is_server])
    return msgspec.structs.replace(report, recommendation=recommend(here) if here.bundles else None)


def _notation(*models: ModelResult) -> BoxNotation:
    """The notation of the first model that has one; PyTorch and servers write boxes as the others do."""
    return next(model.boxes for model in models if model.boxes)


def _bundle(
    other: ModelResult,
    comparison: ComparisonAccumulator,
    dataset: EvalSet,
    tasks: Sequence[str],
    boxes: BoxNotation,
) -> BundleReport:
    scores = with_directions(comparison.compare_metrics(tasks))
    return BundleReport(
        **_model_fields(other, dataset, comparison.failed) | {"boxes": boxes},
        verdict=decide_verdict(
            comparison.primary_results(tasks), bool(tasks) and not comparison.differing, comparison.failed, scores
        ),
        scores=scores,
        by_kind=groups_with_directions(comparison.compare_groups("kind:"), scores),
        by_length=groups_with_directions(comparison.compare_groups("length:"), scores),
        agreement=comparison.agreement.summary(),
        worst=comparison.worst_items(),
        answers=comparison.answers.summary(),
        is_server=other.is_server,
    )


def _model_fields(model: ModelResult, dataset: EvalSet, failed: int) -> dict[str, Any]:
    """Returns the fields of `ModelReport`."""
    return {
        "title": model.title,
        "path": model.path,
        "precisions": model.precisions,
        "family": model.family,
        "boxes": model.boxes,
        "speed": measure_speed(model, dataset),
        "answered": len(model.records),
        "failed": failed,
    }


def measure_speed(model: ModelResult, dataset: EvalSet) -> Speed:
    """Computes a model's costs from the times in its records."""
    first, decode, tokens, seconds, count = array("d"), 0.0, 0, 0.0, 0
    image, pruned, counted = 0, 0, 0
    for record in _answered(model.records, dataset):
        if record.fresh:
            first.append(record.first_token_seconds)
        generated = len(record.tokens) if record.generated is None else record.generated
        if generated > 1 and record.decode_seconds:
            decode += record.decode_seconds
            tokens += generated - 1
        seconds += record.first_token_seconds + record.decode_seconds
        count += 1
        image, pruned = image + record.image_tokens, pruned + record.pruned_tokens
        counted += record.image_tokens > 0
    return Speed(
        size_mb=round(model.size_mb, 2),
        load_seconds=model.cost.load_seconds,
        first_token_ms=round(1000 * statistics.median(first), 2) if first else 0.0,
        tokens_per_second=round(tokens / decode, 1) if decode else None,
        seconds_per_item=round(seconds / max(count, 1), 4),
        peak_memory_mb=model.cost.peak_memory_mb,
        image_tokens=round(image / counted, 1) if counted else None,
        pruned_tokens=round(pruned / counted, 1) if counted else None,
    )


def _answered(records: Records, dataset: EvalSet) -> Iterator[Record]:
    for item in dataset.items():
        if (record := records.answered(item.index)) is not None:
            yield record
