"""Accumulates the comparison of two models item by item, in a few bytes per item."""

from __future__ import annotations

import heapq
import statistics
from array import array
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from rapidfuzz.distance import Levenshtein

from qvl_runtime.manifest import BoxNotation

from ..answers.prefix_agreement import NOTHING, PrefixAgreement
from ..answers.records import Record
from ..metrics.boxes import PageGeometry
from ..metrics.fraction import Fraction
from ..metrics.scores import METRICS, TASKS, primary_metric, score
from ..sets.dataset import Item
from .results import AgreementSummary, AnswerAgreement, Comparison, PrefixSummary, WorstItem
from .statistics import MIN_ITEMS, PairedScores, bootstrap, items_needed, mcnemar, percentile_interval, permutation_test
from .verdict import PrimaryResult

MAX_WORST_ITEMS = 12
LENGTH_BOUNDS = (8, 32, 128, 512)
"""Upper bounds of the groups by answer length, in characters of the true answer."""


@dataclass
class PairedColumns:
    """Fractions of the reference and the other model, item by item, in eight bytes per number."""

    columns: tuple[array[float], ...] = field(default_factory=lambda: tuple(array("d") for _ in range(4)))

    def add(self, reference: Fraction, other: Fraction) -> None:
        for column, value in zip(self.columns, (*reference, *other), strict=True):
            column.append(value)

    def paired(self) -> PairedScores:
        numbers = [np.frombuffer(column, dtype=np.float64) for column in self.columns]
        return PairedScores(np.stack(numbers[0::2]), np.stack(numbers[1::2]))


@dataclass
class AgreementAccumulator:
    """Sums over items of the agreement with the reference."""

    kl: array[float] = field(default_factory=lambda: array("f"))
    kl_items: PairedColumns = field(default_factory=PairedColumns)
    first_divergences: array[int] = field(default_factory=lambda: array("l"))
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
            self.first_divergences.append(found.first_divergence)
        self.same_answers += reference.answer == other.answer
        self.empty = self.empty[0] + (not reference.answer.strip()), self.empty[1] + (not other.answer.strip())
        self.characters = self.characters[0] + len(reference.answer), self.characters[1] + len(other.answer)

    def summary(self) -> AgreementSummary | None:
        if not self.kl:
            return None
        kl = np.frombuffer(self.kl, dtype=np.float32)
        bounds = percentile_interval(bootstrap(self.kl_items.paired()))
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
            diverging_items=len(self.first_divergences),
            first_divergence_median=statistics.median(self.first_divergences) if self.first_divergences else None,
            empty_answers=self.empty[1],
            empty_answers_reference=self.empty[0],
            length_ratio=self.characters[1] / max(self.characters[0], 1),
        )


@dataclass
class AnswerAccumulator:
    """Sums over items that both models answered."""

    items: int = 0
    identical: int = 0
    edits: int = 0
    characters: int = 0
    compared: int = 0
    prefix: PrefixAgreement = NOTHING

    def add(self, reference: Record, other: Record) -> None:
        if other.error:
            return
        self.items, self.identical = self.items + 1, self.identical + (reference.answer == other.answer)
        self.edits += Levenshtein.distance(reference.answer, other.answer)
        self.characters += len(reference.answer)
        if (found := other.prefix) is not None:
            self.compared, self.prefix = self.compared + 1, self.prefix.plus(found)

    def summary(self) -> AnswerAgreement | None:
        if not self.items:
            return None
        total, prefix = self.prefix, None
        if total.tokens:
            prefix = PrefixSummary(
                items=self.compared,
                tokens=total.tokens,
                same=total.same / total.tokens,
                kl_mean=total.kl / total.tokens,
                logprob_difference=total.difference / max(total.same, 1),
            )
        return AnswerAgreement(self.items, self.identical, self.edits / max(self.characters, 1), prefix)


@dataclass
class ComparisonAccumulator:
    """The comparison of one bundle with the reference, accumulated over items."""

    scores: dict[tuple[str, str], PairedColumns] = field(default_factory=lambda: defaultdict(PairedColumns))
    groups: dict[tuple[str, str, str], PairedColumns] = field(default_factory=lambda: defaultdict(PairedColumns))
    agreement: AgreementAccumulator = field(default_factory=AgreementAccumulator)
    answers: AnswerAccumulator = field(default_factory=AnswerAccumulator)
    worst: list[tuple[float, float, int, WorstItem]] = field(default_factory=list)
    differing: int = 0
    failed: int = 0

    def add(self, item: Item, reference: Record, scored: dict[str, Fraction], own: Record, boxes: BoxNotation) -> None:
        """Adds an item that the reference answered; if this model failed, it counts as an empty answer."""
        label = item.label
        self.differing += own.answer != reference.answer
        self.failed += bool(own.error)
        page = PageGeometry(boxes, reference.size, _size_seen(own, reference))
        scores = score(label.task, own.answer, label.answers, page)
        for metric, fraction in scores.items():
            self.scores[label.task, metric].add(scored[metric], fraction)
        primary = primary_metric(label.task)
        for group in (f"kind:{label.kind}", f"length:{length_group(label.answers[0])}"):
            self.groups[label.task, primary, group].add(scored[primary], scores[primary])
        self.agreement.add(reference, own)
        self.answers.add(reference, own)
        self._add_to_worst(item, reference, own, scored[primary], scores[primary])

    def _add_to_worst(self, item: Item, reference: Record, own: Record, *fractions: Fraction) -> None:
        """Keeps the item if it has one of the largest losses; `fractions` are the primary metric of both models."""
        if reference.answer == own.answer and not own.error:
            return
        primary = primary_metric(item.label.task)
        before, after = (above / max(below, 1.0) for above, below in fractions)
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
            metric=primary,
            reference=before,
            other=after,
            loss=METRICS[primary].loss(before, after),
            kl=sum(kl) / max(len(kl), 1),
            reference_resized=reference.resized,
            resized=_size_seen(own, reference),
            error=own.error,
        )
        heapq.heappush(self.worst, (worst.loss, worst.kl, -item.index, worst))
        if len(self.worst) > MAX_WORST_ITEMS:
            heapq.heappop(self.worst)

    def compare_metrics(self, tasks: Iterable[str]) -> list[Comparison]:
        """Compares every metric of these tasks over all items."""
        named = [(task, metric) for task in tasks for metric in TASKS[task]]
        return [compare_pairs(self.scores[name].paired(), name[1], task=name[0]) for name in named]

    def primary_results(self, tasks: Iterable[str]) -> list[PrimaryResult]:
        """Returns the primary metric of these tasks, item by item."""
        named = [(task, primary_metric(task)) for task in tasks]
        return [PrimaryResult(*name, self.scores[name].paired()) for name in named]

    def worst_items(self) -> list[WorstItem]:
        """Returns the items with the largest loss, largest first."""
        return [entry[-1] for entry in sorted(self.worst, key=lambda entry: entry[:3], reverse=True)]

    def compare_groups(self, prefix: str) -> list[Comparison]:
        """Compares the primary metrics by group: `kind:` of document or `length:` of the answer."""
        chosen = [(key, pairs) for key, pairs in self.groups.items() if key[2].startswith(prefix)]
        order = {task: number for number, task in enumerate(TASKS)}
        chosen.sort(key=lambda entry: (order[entry[0][0]], _leading_number(entry[0][2].removeprefix(prefix))))
        return [
            compare_pairs(pairs.paired(), metric, task=task, group=group.removeprefix(prefix))
            for (task, metric, group), pairs in chosen
        ]


def _size_seen(own: Record, reference: Record) -> tuple[int, int]:
    """Returns the page size that a model saw; the reference's if the model failed."""
    return own.resized if own.resized != (1, 1) else reference.resized


def compare_pairs(pairs: PairedScores, metric: str, task: str = "", group: str = "") -> Comparison:
    """Computes rates, difference, interval and tests of one metric."""
    rates, bounds = pairs.rates(), percentile_interval(bootstrap(pairs))
    needed, too_few = items_needed(pairs), pairs.items < MIN_ITEMS
    exact = None
    if METRICS[metric].mcnemar:
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
        p_value=permutation_test(pairs),
        items_needed=max(needed, MIN_ITEMS) if too_few else needed,
        mcnemar=exact,
        task=task,
        group=group,
        too_few=too_few,
    )


def length_group(truth: str) -> str:
    """Returns the group of a true answer by its length in characters, such as `9–32`."""
    for low, high in zip((1, *(end + 1 for end in LENGTH_BOUNDS)), LENGTH_BOUNDS, strict=False):
        if len(truth) <= high:
            return f"{low}–{high}"
    return f"{LENGTH_BOUNDS[-1] + 1}+"


def _leading_number(group: str) -> tuple[int, str]:
    digits = group.split("–")[0].rstrip("+")
    return (int(digits) if digits.isdigit() else 0), group
