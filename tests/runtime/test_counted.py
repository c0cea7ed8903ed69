"""Counts in a sentence."""

from __future__ import annotations

from qvl_runtime.common.counted import counted


def test_one_thing_is_singular() -> None:
    assert [counted(count, "page") for count in (0, 1, 2, 1200)] == ["0 pages", "1 page", "2 pages", "1,200 pages"]
