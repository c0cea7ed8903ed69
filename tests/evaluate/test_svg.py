"""Plots: ticks, labels, gaps."""

from __future__ import annotations

import re
from itertools import combinations

import pytest

from qvl_export.evaluate.report.svg import Line, Point, lines, scatter, ticks, whisker


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 10, [0, 2, 4, 6, 8, 10]), (0.1, 0.9, [0.2, 0.4, 0.6, 0.8]), (-3, 3, [-2, 0, 2]), (5, 5, [5])],
)
def test_ticks_are_round_numbers_within_the_bounds(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == expected


def test_labels_of_equal_points_do_not_overlap() -> None:
    drawn = scatter([Point(f"bundle {index}", 5, 50, 49, 51, index) for index in range(4)], "MB", "CER")
    found = re.findall(r'<text class="name" x="([\d.]+)" y="([\d.]+)">([^<]+)', drawn)
    boxes = [(float(x), float(y), 7.4 * len(text)) for x, y, text in found]
    assert len(boxes) == 4
    for one, two in combinations(boxes, 2):
        assert abs(one[1] - two[1]) >= 14 or one[0] + one[2] <= two[0] or two[0] + two[2] <= one[0]


def test_a_line_has_a_gap_for_a_missing_value() -> None:
    drawn = lines([Line("a", [1.0, 2.0, None, 3.0], 1)], ["s1", "s2", "s3", "s4"], "dB")
    assert drawn.count("<polyline") == 2 and drawn.count("<circle") == 3


def test_labels_are_escaped() -> None:
    assert "<b>" not in scatter([Point("<b>", 1, 1, 1, 1, 0)], "MB", "CER")


def test_an_interval_is_drawn_to_scale() -> None:
    drawn = whisker(-0.1, 0.0, 0.1, (-0.1, 0.1), 0)
    assert 'x1="4.0" x2="296.0"' in drawn and drawn.count('x1="150.0" x2="150.0"') == 2, "middle and zero"
