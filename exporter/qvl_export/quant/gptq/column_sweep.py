"""Columns that are decided one after another, each decision felt by all columns after it (torch)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, empty_like

COLUMNS_AT_ONCE = 128
"""Columns whose decisions reach those after them in one product."""


def one_by_one(values: Tensor, influence: Tensor, decide: Callable[[int, Tensor], Tensor]) -> None:
    """Call `decide(k, values[k])` for all k in order; what it returns [N] times influence[k, j] is taken off values[j].

    `values` [K, N] has a row for each column of a weight, so that what is worked on lies together; it is used up.
    `influence` is [K, K], of which only what lies above the diagonal counts.
    """
    columns = len(values)
    for first in range(0, columns, COLUMNS_AT_ONCE):
        last = min(first + COLUMNS_AT_ONCE, columns)
        decided = empty_like(values[first:last])
        for k in range(first, last):
            decided[k - first] = decide(k, values[k])
            values[k + 1 : last].addr_(influence[k, k + 1 : last], decided[k - first], alpha=-1)
        values[last:].addmm_(influence[first:last, last:].T, decided, alpha=-1)
