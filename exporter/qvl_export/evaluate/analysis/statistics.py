"""Paired comparison of two bundles on the same items: intervals, tests, and the number of items for a small loss.

A metric is Σ numerators / Σ denominators over items (see metrics/scores.py); everything here resamples or swaps whole
items, so that it holds for micro-averaged rates as well as for means.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ...common.arrays import Doubles

RESAMPLES = 2000
CONFIDENCE = 0.95
"""Confidence level of every interval."""
ONE_POINT = 0.01
"""A loss of one point, the smallest that a report is expected to show."""
MIN_ITEMS = 20
"""Number of items below which no bootstrap interval is reported, because it would be too short.

Its length is √(1 − 1/n) · z / t(n − 1) of the correct one: 91 % at 20 items, 82 % at 10, 63 % at 5, and zero at one. If
20 items have no error, up to one in seven of all items may still have one."""
_MAX_NUMBERS = 1 << 18
"""Maximum count of numbers in memory at a time while resampling."""
Z_LEVEL, Z_POWER = 1.959964, 0.841621
"""Normal quantiles of a two-sided 95 % test with a power of 80 %."""


@dataclass(frozen=True)
class PairedScores:
    """Numerators and denominators [2, items] of the reference (row 0) and of another bundle (row 1)."""

    numerators: Doubles
    denominators: Doubles

    @property
    def items(self) -> int:
        return int(self.numerators.shape[1])

    def rates(self) -> tuple[float, float]:
        """Returns the metric of the reference and of the other bundle."""
        first, second = _ratio(self.numerators.sum(1), self.denominators.sum(1))
        return float(first), float(second)

    def difference(self) -> float:
        """Returns the other bundle's metric minus the reference's."""
        first, second = self.rates()
        return second - first


@dataclass(frozen=True)
class Interval:
    """Bounds of a difference at a confidence level."""

    low: float
    high: float

    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def _ratio(numerators: Doubles, denominators: Doubles) -> Doubles:
    """Divides; the result is zero if the denominator is zero."""
    return np.divide(numerators, denominators, out=np.zeros_like(numerators), where=denominators != 0)


def bootstrap(pairs: PairedScores, seed: int = 0, resamples: int = RESAMPLES) -> Doubles:
    """Returns differences [resamples] over items drawn with replacement; both bundles' results stay paired."""
    differences = []
    for rng, rows in _batches(pairs.items, seed, resamples):
        drawn = rng.integers(0, pairs.items, (rows, pairs.items))
        rates = _ratio(pairs.numerators[:, drawn].sum(-1), pairs.denominators[:, drawn].sum(-1))
        differences.append(rates[1] - rates[0])
    return np.concatenate(differences)


def percentile_interval(differences: Doubles, confidence: float = CONFIDENCE) -> Interval:
    """Returns the percentile interval of resampled differences."""
    low, high = np.quantile(differences, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))


def permutation_test(pairs: PairedScores, seed: int = 0, resamples: int = RESAMPLES) -> float:
    """Returns the two-sided p-value of the paired permutation test, which swaps the two results of an item.

    Unlike the bootstrap, it stays valid if only a few items differ.
    """
    observed, extreme = abs(pairs.difference()), 0
    differences = np.diff(pairs.numerators, axis=0)[0], np.diff(pairs.denominators, axis=0)[0]
    totals = pairs.numerators.sum(1), pairs.denominators.sum(1)
    for rng, rows in _batches(pairs.items, seed, resamples):
        swapped = rng.integers(0, 2, (rows, pairs.items)).astype(np.float64)
        moved = [
            np.outer(swapped @ part, (1, -1)).T + total[:, None]
            for part, total in zip(differences, totals, strict=True)
        ]
        rates = _ratio(moved[0], moved[1])
        extreme += int((np.abs(rates[1] - rates[0]) >= observed - 1e-12).sum())
    return (extreme + 1) / (resamples + 1)


def mcnemar(only_reference: int, only_other: int) -> float:
    """Returns McNemar's exact two-sided p-value, from the items that only one of the two bundles got right."""
    n, k = only_reference + only_other, min(only_reference, only_other)
    tail = sum(math.comb(n, i) for i in range(k + 1))
    return min(1.0, 2 * tail / 2**n) if n else 1.0


def items_needed(pairs: PairedScores, loss: float = ONE_POINT) -> int:
    """Returns the number of similar items that would show a difference of `loss` at the 95 % level with 80 % power.

    It follows from the standard deviation of the items' influences on the difference (linearized ratio).
    """
    means = pairs.denominators.mean(1)
    rates = np.array(pairs.rates())
    influence = np.divide(
        pairs.numerators - rates[:, None] * pairs.denominators,
        means[:, None],
        out=np.zeros_like(pairs.numerators),
        where=means[:, None] != 0,
    )
    deviation = float((influence[1] - influence[0]).std())
    return max(1, math.ceil(((Z_LEVEL + Z_POWER) * deviation / loss) ** 2))


def _batches(items: int, seed: int, resamples: int) -> Iterator[tuple[np.random.Generator, int]]:
    """Yields the number of rows to draw at a time, so that items × rows stays small."""
    rng, rows = np.random.default_rng(seed), max(1, _MAX_NUMBERS // max(items, 1))
    for start in range(0, resamples, rows):
        yield rng, min(rows, resamples - start)
