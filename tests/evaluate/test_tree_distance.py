"""Edit distances of tables given as rows of (shape, text)."""

from __future__ import annotations

import pytest

from qvl_export.evaluate.metrics.tree_distance import Row, tree_distance

A, B, WIDE = (1, "a"), (1, "b"), (2, "a")


@pytest.mark.parametrize(
    ("given", "wanted", "expected"),
    [
        ([], [], 0),
        ([[A]], [[A]], 0),
        ([], [[A, B], []], 4),  # a row of two cells and an empty one are inserted
        ([[A]], [[B]], 1),
        ([[(1, "ab")]], [[(1, "ac")]], 0.5),
        ([[A]], [[WIDE]], 1),
        ([[A, B]], [[A], [B]], 1 + 2),  # cheapest: keep row and cell, delete one cell, insert a row of one cell
    ],
)
def test_worked_examples(given: list[Row], wanted: list[Row], expected: float) -> None:
    assert tree_distance(given, wanted) == tree_distance(wanted, given) == pytest.approx(expected)
