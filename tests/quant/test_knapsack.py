"""The knapsack is solved as by trying everything."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qvl_export.quant.mixed_precision.knapsack import BUCKETS, choose

options = st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10)), min_size=1, max_size=3)


@settings(max_examples=60, deadline=None)
@given(st.lists(options, min_size=1, max_size=5), st.floats(0.5, 40))
def test_knapsack_against_trying_everything(items: list[list[tuple[float, float]]], limit: float) -> None:
    """Never above the limit, and no worse than the best that keeps the rounding's distance from it."""
    costs, weights = [[c for c, _ in item] for item in items], [[w for _, w in item] for item in items]

    def totals(chosen: tuple[int, ...]) -> tuple[float, float]:
        return tuple(sum(part[i][k] for i, k in enumerate(chosen)) for part in (costs, weights))

    every = [totals(chosen) for chosen in itertools.product(*(range(len(item)) for item in items))]
    found = choose(costs, weights, limit)
    margin = limit * (1 - len(items) / BUCKETS)
    if found is None:
        assert min(weight for _, weight in every) > margin
        return
    cost, weight = totals(tuple(found))
    assert weight <= limit * (1 + 1e-9)
    assert cost <= min((c for c, w in every if w <= margin), default=np.inf) + 1e-9


@pytest.mark.parametrize("count", [1, 7, 300])
def test_the_lightest_options_are_chosen_at_exactly_their_weight(count: int) -> None:
    """Not only well above it, where what rounding adds to every item has room."""
    costs, weights = [[2.0, 1.0]] * count, [[3.0, 4.0]] * count
    assert choose(costs, weights, 3.0 * count) == [0] * count
    assert choose(costs, weights, 3.0 * count + 1) == [*[0] * (count - 1), 1][::-1]
    assert choose(costs, weights, 3.0 * count - 0.01) is None
