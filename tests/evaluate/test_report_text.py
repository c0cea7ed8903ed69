"""Figures and notes as text."""

from __future__ import annotations

import pytest

from qvl_export.evaluate.analysis.results import Comparison, Recommendation
from qvl_export.evaluate.report.text import change, main_table, notes, points, recommendation_title
from qvl_export.evaluate.sets.dataset import EvalSet
from tests.evaluate.answer_patterns import report, right, wrong


@pytest.mark.parametrize(
    ("rate", "sign", "text"),
    [(0.0123, True, "+1.2"), (-0.0123, True, "−1.2"), (-0.0001, True, "0.0"), (0.0123, False, "1.2")],
)
def test_points_have_one_decimal_and_no_negative_zero(rate: float, sign: bool, text: str) -> None:
    assert points(rate, sign) == text


def test_a_change_has_an_interval_or_says_that_items_are_too_few() -> None:
    found = Comparison("cer", 40, 0.1, 0.13, 0.03, -0.01, 0.07, 0.1, 500)
    assert change(found) == "+3.0 (−1.0 to 7.0)"
    assert change(Comparison("cer", 1, 0.1, 0.13, 0.03, 0.03, 0.03, 1, 20, too_few=True)) == "+3.0 (1 item, too few)"


def test_the_table_has_the_reference_first(chosen: EvalSet) -> None:
    head, rows = main_table(report(chosen, ("fp16", right, 2), ("int8", wrong, 1)))
    assert head[:3] == ["", "MB", "CER (ocr)"] and [row[0] for row in rows] == ["fp16 (reference)", "int8"]
    assert all(len(row) == len(head) for row in rows)


def test_failed_items_are_noted(chosen: EvalSet) -> None:
    assert notes(report(chosen, ("fp16", right, 2), ("int8", wrong, 1), failing="int8")) == [
        ("int8:", "failed on 1 item; failures count as empty answers.")
    ]


def test_the_title_of_a_recommendation() -> None:
    assert recommendation_title(Recommendation("int8", "/b", "…")) == "Ship int8"
    assert recommendation_title(Recommendation(None, "", "…")) == "No recommendation yet"
    assert recommendation_title(None) == ""
