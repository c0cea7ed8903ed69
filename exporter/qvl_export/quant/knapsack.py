"""One option for each item: the least cost that a limit on weight allows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BUCKETS = 20_000
"""Weights are rounded up to this many parts of the limit, so that a solution never exceeds it."""


def choose(costs: Sequence[Sequence[float]], weights: Sequence[Sequence[float]], limit: float) -> list[int] | None:
    """The index of the option of every item, or None where even the lightest options together are above the limit.

    Multiple-choice knapsack by dynamic programming over the weight spent (Kellerer et al., Knapsack Problems, §11.5).
    """
    sizes = [np.ceil(np.maximum(options, 0) / limit * BUCKETS - 1e-9).astype(int) for options in map(np.array, weights)]
    best = np.zeros(BUCKETS + 1)
    picked = np.zeros((len(costs), BUCKETS + 1), np.int8)
    for item, (options, needs) in enumerate(zip(costs, sizes, strict=True)):
        candidates = np.full((len(options), BUCKETS + 1), np.inf)
        for option, (cost, need) in enumerate(zip(options, needs, strict=True)):
            if need <= BUCKETS:
                candidates[option, need:] = best[: BUCKETS + 1 - need] + cost
        picked[item], best = candidates.argmin(axis=0), candidates.min(axis=0)
    if not np.isfinite(best[-1]):
        return None
    chosen, left = [0] * len(costs), BUCKETS
    for item in reversed(range(len(costs))):
        chosen[item] = int(picked[item, left])
        left -= int(sizes[item][chosen[item]])
    return chosen
