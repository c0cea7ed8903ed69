"""Quantizes columns one after another and propagates each column's error to all later columns (torch)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, empty_like

COLUMNS_AT_ONCE = 128
"""Columns per block; a block's errors are propagated to all later columns in one product."""


def sweep_columns(values: Tensor, influence: Tensor, decide: Callable[[int, Tensor], Tensor]) -> None:
    """Calls e = `decide(k, values[k])` for all k in order, and subtracts influence[k, j] · e [N] from values[j], j > k.

    `values` [K, N] has one row per column of a weight, so that a column is contiguous in memory; it is overwritten.
    `influence` is [K, K]; only the part above the diagonal is used.
    """
    columns = len(values)
    for first in range(0, columns, COLUMNS_AT_ONCE):
        last = min(first + COLUMNS_AT_ONCE, columns)
        decided = empty_like(values[first:last])
        for k in range(first, last):
            decided[k - first] = decide(k, values[k])
            values[k + 1 : last].addr_(influence[k, k + 1 : last], decided[k - first], alpha=-1)
        values[last:].addmm_(influence[first:last, last:].T, decided, alpha=-1)
