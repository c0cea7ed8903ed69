"""From the records of two or more models to the report's figures; `Report` is what report.json holds."""

from __future__ import annotations

import heapq
import statistics
import time
from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from .. import __version__
from .blame import Blame
from .boxes import PageGeometry
from .dataset import EvalSet, Item
from .metrics import METRICS, TASKS, Fraction, score
from .records import Cost, Record, Records
from .statistics import LEVEL, Interval, Paired, interval, items_needed, mcnemar, resampled, swap_test
from .verdict import Finding, Verdict, give_verdict

WORST = 12
LENGTHS = (8, 32, 128, 512)
"""Upper ends, in characters of the true answer, of the groups by answer length."""


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


class Speed(msgspec.Struct, frozen=True):
    """Cost beside accuracy; a first token counts where the page was new. Peak memory is that of all its processes."""

    size_mb: float
    load_seconds: float
    first_token_ms: float
    tokens_per_second: float
    seconds_per_item: float
    peak_memory_mb: float


class Comparison(msgspec.Struct, frozen=True):
    """One metric of one task or group: both rates and the difference (other − reference) as fractions of one.

    `low` and `high` bound the difference at 95 %, `p_value` is that of the paired permutation test, `items_needed`
    would show a loss of one point.
    """

    metric: str
    items: int
    reference: float
    other: float
    difference: float
    low: float
    high: float
    p_value: float
    items_needed: int
    mcnemar: float | None = None
    group: str = ""
    task: str = ""


class AgreementSummary(msgspec.Struct, frozen=True):
    """Along the reference's own answers: KL in nats a token, how often both favour the same token, the ratio of
    perplexities, and how the free answers compare."""

    items: int
    tokens: int
    kl_mean: float
    kl_low: float
    kl_high: float
    kl_median: float
    kl_p99: float
    kl_max: float
    same_top: float
    perplexity_ratio: float
    same_answers: int
    diverging_items: int
    first_divergence_median: float | None
    empty_answers: int
    empty_answers_reference: int
    length_ratio: float


class WorstItem(msgspec.Struct, frozen=True):
    """An item that lost much: `loss` in the task's first metric, `kl` the mean along the reference's answer."""

    item: int
    image: str
    task: str
    kind: str
    prompt: str
    truth: str
    reference_answer: str
    answer: str
    metric: str
    reference: float
    other: float
    loss: float
    kl: float
    reference_resized: tuple[int, int]
    resized: tuple[int, int]
    error: str = ""


class BundleReport(msgspec.Struct, frozen=True):
    """One bundle against the reference; `scores` is by task and metric, `groups` by kind and by answer length."""

    title: str
    path: str
    precisions: str
    family: str
    speed: Speed
    answered: int
    failed: int
    verdict: Verdict
    scores: list[Comparison]
    by_kind: list[Comparison]
    by_length: list[Comparison]
    agreement: AgreementSummary | None
    worst: list[WorstItem]


class ReferenceReport(msgspec.Struct, frozen=True):
    """The reference itself; `rates` by task and metric."""

    title: str
    path: str
    precisions: str
    family: str
    speed: Speed
    answered: int
    failed: int
    rates: dict[str, dict[str, float]]


class Report(msgspec.Struct, frozen=True):
    """Everything a report shows; see docs/report.md."""

    producer: str
    created: str
    data: str
    data_sha256: str
    items: int
    of_items: int
    tasks: dict[str, int]
    reference: ReferenceReport
    bundles: list[BundleReport]
    noise: AgreementSummary | None
    blame: dict[str, Blame] = {}


@dataclass
class _Pairs:
    """Fractions of reference and other, item by item, in eight bytes each."""

    columns: tuple[array[float], ...] = field(default_factory=lambda: tuple(array("d") for _ in range(4)))

    def add(self, reference: Fraction, other: Fraction) -> None:
        for column, value in zip(self.columns, (*reference, *other), strict=True):
            column.append(value)

    def paired(self) -> Paired:
        numbers = [np.frombuffer(column, dtype=np.float64) for column in self.columns]
        return Paired(np.stack(numbers[0::2]), np.stack(numbers[1::2]))


@dataclass
class _AgreementTally:
    """Sums of agreement over items."""

    kl: array[float] = field(default_factory=lambda: array("f"))
    kl_items: _Pairs = field(default_factory=_Pairs)
    first: list[int] = field(default_factory=list)
    same_top: int = 0
    log_likelihoods: tuple[float, float] = (0.0, 0.0)
    same_answers: int = 0
    empty: tuple[int, int] = (0, 0)
    characters: tuple[int, int] = (0, 0)

    def add(self, reference: Record, other: Record) -> None:
        if (found := other.agreement) is None:
            return
        self.kl.extend(found.kl)
        self.kl_items.add((0.0, 1.0), (sum(found.kl), float(len(found.kl))))
        self.same_top += found.same_top
        before, after = self.log_likelihoods
        self.log_likelihoods = before + found.log_likelihood_reference, after + found.log_likelihood
        if found.first_divergence is not None:
            self.first.append(found.first_divergence)
        self.same_answers += reference.answer == other.answer
        self.empty = self.empty[0] + (not reference.answer.strip()), self.empty[1] + (not other.answer.strip())
        self.characters = self.characters[0] + len(reference.answer), self.characters[1] + len(other.answer)

    def summary(self) -> AgreementSummary | None:
        if not self.kl:
            return None
        kl = np.frombuffer(self.kl, dtype=np.float32)
        bounds = interval(resampled(self.kl_items.paired()))
        median, p99 = np.quantile(kl, [0.5, 0.99])
        return AgreementSummary(
            items=len(self.kl_items.columns[0]),
            tokens=len(kl),
            kl_mean=float(kl.mean(dtype=np.float64)),
            kl_low=max(bounds.low, 0.0),
            kl_high=bounds.high,
            kl_median=float(median),
            kl_p99=float(p99),
            kl_max=float(kl.max()),
            same_top=self.same_top / len(kl),
            perplexity_ratio=float(np.exp((self.log_likelihoods[0] - self.log_likelihoods[1]) / len(kl))),
            same_answers=self.same_answers,
            diverging_items=len(self.first),
            first_divergence_median=statistics.median(self.first) if self.first else None,
            empty_answers=self.empty[1],
            empty_answers_reference=self.empty[0],
            length_ratio=self.characters[1] / max(self.characters[0], 1),
        )


@dataclass
class _Tally:
    """What is gathered about one model, item by item."""

    contender: Contender
    scores: dict[tuple[str, str], _Pairs] = field(default_factory=lambda: defaultdict(_Pairs))
    groups: dict[tuple[str, str, str], _Pairs] = field(default_factory=lambda: defaultdict(_Pairs))
    agreement: _AgreementTally = field(default_factory=_AgreementTally)
    worst: list[tuple[float, float, int, WorstItem]] = field(default_factory=list)
    failed: int = 0

    def add(self, item: Item, reference: Record, scored: dict[str, Fraction], own: Record, family: str) -> None:
        """An item that the reference answered; one that failed here counts as an empty answer."""
        label = item.label
        self.failed += bool(own.error)
        page = PageGeometry.of(family, reference.size, own.resized if own.resized != (1, 1) else reference.resized)
        scores = score(label.task, own.answer, label.answers, page)
        for metric, fraction in scores.items():
            self.scores[label.task, metric].add(scored[metric], fraction)
        first = TASKS[label.task][0]
        for group in (f"kind:{label.kind}", f"length:{length_group(label.answers[0])}"):
            self.groups[label.task, first, group].add(scored[first], scores[first])
        self.agreement.add(reference, own)
        self._consider(item, reference, own, scored[first], scores[first])

    def _consider(self, item: Item, reference: Record, own: Record, one: Fraction, two: Fraction) -> None:
        first = TASKS[item.label.task][0]
        before, after = (part[0] / max(part[1], 1.0) for part in (one, two))
        loss, kl = METRICS[first].loss(before, after), own.agreement.kl if own.agreement else []
        mean = sum(kl) / max(len(kl), 1)
        if reference.answer == own.answer and not own.error:
            return
        worst = WorstItem(
            item=item.index,
            image=str(item.image),
            task=item.label.task,
            kind=item.label.kind,
            prompt=item.label.prompt,
            truth=item.label.answers[0],
            reference_answer=reference.answer,
            answer=own.answer,
            metric=first,
            reference=before,
            other=after,
            loss=loss,
            kl=mean,
            reference_resized=reference.resized,
            resized=own.resized if own.resized != (1, 1) else reference.resized,
            error=own.error,
        )
        heapq.heappush(self.worst, (loss, mean, -item.index, worst))
        if len(self.worst) > WORST:
            heapq.heappop(self.worst)

    def report(self, chosen: EvalSet, tasks: Sequence[str]) -> BundleReport:
        scores = [
            comparison(self.scores[task, metric].paired(), metric, task=task)
            for task in tasks
            for metric in TASKS[task]
        ]
        findings = [Finding(task, TASKS[task][0], self.scores[task, TASKS[task][0]].paired()) for task in tasks]
        agreed = self.agreement.summary()
        return BundleReport(
            title=self.contender.title,
            path=self.contender.path,
            precisions=self.contender.precisions,
            family=self.contender.family,
            speed=speed(self.contender, chosen),
            answered=len(self.contender.records),
            failed=self.failed,
            verdict=give_verdict(
                findings, agreed is not None and agreed.same_answers == agreed.items, self.failed, scores
            ),
            scores=scores,
            by_kind=self._grouped("kind:"),
            by_length=self._grouped("length:"),
            agreement=agreed,
            worst=[entry[-1] for entry in sorted(self.worst, key=lambda entry: entry[:3], reverse=True)],
        )

    def _grouped(self, prefix: str) -> list[Comparison]:
        chosen = [(key, pairs) for key, pairs in self.groups.items() if key[2].startswith(prefix)]
        order = {task: number for number, task in enumerate(TASKS)}
        chosen.sort(key=lambda entry: (order[entry[0][0]], _leading_number(entry[0][2].removeprefix(prefix))))
        return [
            comparison(pairs.paired(), metric, task=task, group=group.removeprefix(prefix))
            for (task, metric, group), pairs in chosen
        ]


def summarise(chosen: EvalSet, reference: Contender, others: Sequence[Contender], noise: Records | None) -> Report:
    """Compare records item by item; items that the reference failed at are counted and left out."""
    tallies, floor = [_Tally(other) for other in others], _AgreementTally()
    totals: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(lambda: [0.0, 0.0]))
    tasks: dict[str, int] = defaultdict(int)
    failed = 0
    for item in chosen.items():
        record = reference.records.get(item.index)
        tasks[item.label.task] += 1
        if record is None or record.error:
            failed += 1
            continue
        page = PageGeometry.of(reference.family or others[0].family, record.size, record.resized)
        scored = score(item.label.task, record.answer, item.label.answers, page)
        for metric, fraction in scored.items():
            total = totals[item.label.task][metric]
            total[0], total[1] = total[0] + fraction[0], total[1] + fraction[1]
        for tally in tallies:
            own = tally.contender.records.get(item.index) or Record(error="not answered")
            tally.add(item, record, scored, own, tally.contender.family)
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
            title=reference.title,
            path=reference.path,
            precisions=reference.precisions,
            family=reference.family,
            speed=speed(reference, chosen),
            answered=len(reference.records),
            failed=failed,
            rates={task: {m: n / d if d else 0.0 for m, (n, d) in totals[task].items()} for task in ordered},
        ),
        bundles=[tally.report(chosen, ordered) for tally in tallies],
        noise=floor.summary(),
    )


def comparison(pairs: Paired, metric: str, task: str = "", group: str = "") -> Comparison:
    """Rates, difference, interval and tests of one metric."""
    rates, bounds = pairs.rates(), interval(resampled(pairs), LEVEL)
    exact = None
    if metric in ("exact", "tool"):
        right = pairs.numerators > 0
        exact = mcnemar(int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum()))
    return Comparison(
        metric=metric,
        items=pairs.items,
        reference=rates[0],
        other=rates[1],
        difference=pairs.difference(),
        low=bounds.low,
        high=bounds.high,
        p_value=swap_test(pairs),
        items_needed=items_needed(pairs),
        mcnemar=exact,
        task=task,
        group=group,
    )


def loss_interval(found: Comparison) -> Interval:
    """Bounds of the loss: positive is worse."""
    if METRICS[found.metric].lower_is_better:
        return Interval(found.low, found.high)
    return Interval(-found.high, -found.low)


def length_group(truth: str) -> str:
    """The group by length of a true answer, in characters."""
    for low, high in zip((1, *(end + 1 for end in LENGTHS)), LENGTHS, strict=False):
        if len(truth) <= high:
            return f"{low}–{high}"
    return f"{LENGTHS[-1] + 1}+"


def _leading_number(group: str) -> tuple[int, str]:
    digits = group.split("–")[0].rstrip("+")
    return (int(digits) if digits.isdigit() else 0), group


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
