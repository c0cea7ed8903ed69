"""Accumulates results of a model item by item, in a few bytes per item."""

from __future__ import annotations

import heapq
import statistics
from array import array
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from ..answers.records import Record
from ..metrics.boxes import PageGeometry
from ..metrics.scores import METRICS, TASKS, Fraction, score
from ..sets.dataset import Item
from .results import AgreementSummary, Comparison, WorstItem
from .statistics import ENOUGH, LEVEL, Paired, interval, items_needed, mcnemar, resampled, swap_test
from .verdict import Finding

WORST = 12
LENGTHS = (8, 32, 128, 512)
"""Upper bounds of the groups by answer length, in characters of the true answer."""


@dataclass
class Pairs:
    """Fractions of the reference and the other model, item by item, in eight bytes per number."""

    columns: tuple[array[float], ...] = field(default_factory=lambda: tuple(array("d") for _ in range(4)))

    def add(self, reference: Fraction, other: Fraction) -> None:
        for column, value in zip(self.columns, (*reference, *other), strict=True):
            column.append(value)

    def paired(self) -> Paired:
        numbers = [np.frombuffer(column, dtype=np.float64) for column in self.columns]
        return Paired(np.stack(numbers[0::2]), np.stack(numbers[1::2]))


@dataclass
class AgreementTally:
    """Sums of agreement over items."""

    kl: array[float] = field(default_factory=lambda: array("f"))
    kl_items: Pairs = field(default_factory=Pairs)
    first: array[int] = field(default_factory=lambda: array("l"))
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
class Tally:
    """Accumulated results of one model."""

    scores: dict[tuple[str, str], Pairs] = field(default_factory=lambda: defaultdict(Pairs))
    groups: dict[tuple[str, str, str], Pairs] = field(default_factory=lambda: defaultdict(Pairs))
    agreement: AgreementTally = field(default_factory=AgreementTally)
    worst: list[tuple[float, float, int, WorstItem]] = field(default_factory=list)
    differing: int = 0
    failed: int = 0

    def add(self, item: Item, reference: Record, scored: dict[str, Fraction], own: Record, family: str) -> None:
        """Adds an item that the reference answered; if this model failed, it counts as an empty answer."""
        label = item.label
        self.differing += own.answer != reference.answer
        self.failed += bool(own.error)
        page = PageGeometry(family, reference.size, _seen(own, reference))
        scores = score(label.task, own.answer, label.answers, page)
        for metric, fraction in scores.items():
            self.scores[label.task, metric].add(scored[metric], fraction)
        first = TASKS[label.task][0]
        for group in (f"kind:{label.kind}", f"length:{length_group(label.answers[0])}"):
            self.groups[label.task, first, group].add(scored[first], scores[first])
        self.agreement.add(reference, own)
        self._consider(item, reference, own, scored[first], scores[first])

    def _consider(self, item: Item, reference: Record, own: Record, one: Fraction, two: Fraction) -> None:
        """Keeps the item if it is among those with the largest loss."""
        if reference.answer == own.answer and not own.error:
            return
        first = TASKS[item.label.task][0]
        before, after = (part[0] / max(part[1], 1.0) for part in (one, two))
        kl = own.agreement.kl if own.agreement else []
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
            loss=METRICS[first].loss(before, after),
            kl=sum(kl) / max(len(kl), 1),
            reference_resized=reference.resized,
            resized=_seen(own, reference),
            error=own.error,
        )
        heapq.heappush(self.worst, (worst.loss, worst.kl, -item.index, worst))
        if len(self.worst) > WORST:
            heapq.heappop(self.worst)

    def by_metric(self, tasks: Iterable[str]) -> list[Comparison]:
        """Compares every metric of these tasks over all items."""
        named = [(task, metric) for task in tasks for metric in TASKS[task]]
        return [comparison(self.scores[name].paired(), name[1], task=name[0]) for name in named]

    def findings(self, tasks: Iterable[str]) -> list[Finding]:
        """Returns the first metric of these tasks, item by item."""
        return [Finding(task, TASKS[task][0], self.scores[task, TASKS[task][0]].paired()) for task in tasks]

    def worst_first(self) -> list[WorstItem]:
        return [entry[-1] for entry in sorted(self.worst, key=lambda entry: entry[:3], reverse=True)]

    def grouped(self, prefix: str) -> list[Comparison]:
        """Compares the first metrics by group: `kind:` of document or `length:` of the answer."""
        chosen = [(key, pairs) for key, pairs in self.groups.items() if key[2].startswith(prefix)]
        order = {task: number for number, task in enumerate(TASKS)}
        chosen.sort(key=lambda entry: (order[entry[0][0]], _leading_number(entry[0][2].removeprefix(prefix))))
        return [
            comparison(pairs.paired(), metric, task=task, group=group.removeprefix(prefix))
            for (task, metric, group), pairs in chosen
        ]


def _seen(own: Record, reference: Record) -> tuple[int, int]:
    """Returns the page size that a model saw; the reference's if the model failed."""
    return own.resized if own.resized != (1, 1) else reference.resized


def comparison(pairs: Paired, metric: str, task: str = "", group: str = "") -> Comparison:
    """Computes rates, difference, interval and tests of one metric."""
    rates, bounds = pairs.rates(), interval(resampled(pairs), LEVEL)
    needed, too_few = items_needed(pairs), pairs.items < ENOUGH
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
        items_needed=max(needed, ENOUGH) if too_few else needed,
        mcnemar=exact,
        task=task,
        group=group,
        too_few=too_few,
    )


def length_group(truth: str) -> str:
    """Returns the length group of a true answer, in characters."""
    for low, high in zip((1, *(end + 1 for end in LENGTHS)), LENGTHS, strict=False):
        if len(truth) <= high:
            return f"{low}–{high}"
    return f"{LENGTHS[-1] + 1}+"


def _leading_number(group: str) -> tuple[int, str]:
    digits = group.split("–")[0].rstrip("+")
    return (int(digits) if digits.isdigit() else 0), group
