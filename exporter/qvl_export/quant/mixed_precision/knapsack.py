"""Multiple-choice knapsack: one option per item, at the least total cost within a weight limit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BUCKETS = 20_000
"""Resolution of weights: the weight of an option above the lightest is rounded up to 1 / BUCKETS of the room that the
lightest options leave, so that a solution never exceeds the limit."""
TINY = 1e-300


def choose(costs: Sequence[Sequence[float]], weights: Sequence[Sequence[float]], limit: float) -> list[int] | None:
    """Returns the index of each item's option, or None if the lightest options together exceed the limit.

    Dynamic programming over the weight spent (Kellerer et al., Knapsack Problems, §11.5).
    """
    room = limit - sum(map(min, weights))
    if room < 0:
        return None
    beyond = [np.array(options) - min(options) for options in weights]
    with np.errstate(over="ignore"):
        parts = [np.ceil(options / max(room, TINY) * BUCKETS - 1e-9) for options in beyond]
    sizes = [np.minimum(options, BUCKETS + 1).astype(int) for options in parts]
    best = np.zeros(BUCKETS + 1)
    picked = np.zeros((len(costs), BUCKETS + 1), np.int8)
    for item, (options, needs) in enumerate(zip(costs, sizes, strict=True)):
        candidates = np.full((len(options), BUCKETS + 1), np.inf)
        for option, (cost, need) in enumerate(zip(options, needs, strict=True)):
            if need <= BUCKETS:
                candidates[option, need:] = best[: BUCKETS + 1 - need] + cost
        picked[item], best = candidates.argmin(axis=0), candidates.min(axis=0)
    chosen, left = [0] * len(costs), BUCKETS
    for item in reversed(range(len(costs))):
        chosen[item] = int(picked[item, left])
        left -= int(sizes[item][chosen[item]])
    return chosen
