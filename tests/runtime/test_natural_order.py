"""Numbers in names count as numbers."""

from __future__ import annotations

from qvl_runtime.common.natural_order import natural_order


def test_numbers_are_ordered_by_value() -> None:
    names = ["page10.png", "page2.png", "Page1.png", "b/1", "a/10", "a/9"]
    assert sorted(names, key=natural_order) == ["a/9", "a/10", "b/1", "Page1.png", "page2.png", "page10.png"]
