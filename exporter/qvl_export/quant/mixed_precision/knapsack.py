"""One option for each item: the least cost that a limit on weight allows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BUCKETS = 20_000
"""What options weigh beyond the lightest is rounded up to this many parts of the room that those leave, so that a
solution never exceeds the limit."""
TINY = 1e-300


def choose(costs: Sequence[Sequence[float]], weights: Sequence[Sequence[float]], limit: float) -> list[int] | None:
    """The index of the option of every item, or None where the lightest options together are above the limit.

    Multiple-choice knapsack by dynamic programming over the weight spent (Kellerer et al., Knapsack Problems, §11.5).
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
