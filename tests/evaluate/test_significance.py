"""The rule of significance: thresholds, directions, groups."""

from __future__ import annotations

import pytest

from qvl_export.evaluate.analysis.results import Comparison
from qvl_export.evaluate.analysis.significance import (
    direction,
    groups_with_directions,
    significance_levels,
    with_directions,
)
from qvl_export.evaluate.analysis.statistics import Interval


def comparison(metric: str, low: float, high: float, p_value: float, group: str = "") -> Comparison:
    return Comparison(metric, 100, 0.0, 0.0, (low + high) / 2, low, high, p_value, 100, task="ocr", group=group)


def test_primary_metrics_have_four_fifths_of_the_risk() -> None:
    assert significance_levels(2, 4) == pytest.approx((0.02, 0.0025))
    assert significance_levels(2, 0) == pytest.approx((0.025, 0.0))
    assert sum(count * level for count, level in zip((3, 7), significance_levels(3, 7), strict=True)) == (
        pytest.approx(0.05)
    )


@pytest.mark.parametrize(
    ("p_value", "low", "high", "expected"),
    [
        (0.01, 0.1, 0.2, "worse"),
        (0.01, -0.2, -0.1, "better"),
        (0.01, -0.1, 0.2, ""),
        (0.05, 0.1, 0.2, "worse"),
        (0.06, 0.1, 0.2, ""),
    ],
)
def test_a_direction_takes_both_the_interval_and_the_test(
    p_value: float, low: float, high: float, expected: str
) -> None:
    assert direction(p_value, Interval(low, high), 0.05) == expected


def test_a_secondary_metric_has_a_stricter_threshold() -> None:
    cer, wer = with_directions([comparison("cer", 0.1, 0.2, 0.02), comparison("wer", 0.1, 0.2, 0.02)])
    assert (cer.direction, wer.direction) == ("worse", "")


@pytest.mark.parametrize(("p_value", "expected"), [(0.001, "worse"), (0.5, "")])
def test_a_group_has_no_direction_that_its_task_has_not(p_value: float, expected: str) -> None:
    scores = with_directions([comparison("cer", 0.1, 0.2, p_value)])
    [group] = groups_with_directions([comparison("cer", 0.1, 0.2, 0.001, group="letter")], scores)
    assert group.direction == expected
