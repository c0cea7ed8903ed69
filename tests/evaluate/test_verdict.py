"""The verdict and its text."""

from __future__ import annotations

import re

import numpy as np

from qvl_export.evaluate.analysis.statistics import PairedScores
from qvl_export.evaluate.analysis.verdict import PrimaryResult, decide_verdict


def pairs(errors: list[float]) -> PairedScores:
    """Characters wrong of ten an item; the reference makes no error."""
    return PairedScores(np.array([[0.0] * len(errors), errors]), np.full((2, len(errors)), 10.0))


def test_a_loss_in_all_of_a_few_items_has_no_bounds() -> None:
    """Eight items all worse: chance would be one in 128, which holds for any number of items."""
    verdict = decide_verdict([PrimaryResult("ocr", "cer", pairs([1.0, 2.0] * 4))], identical=False, failed=0)
    assert verdict.outcome == "loss"
    assert verdict.text == "Loss of 15.0 points of CER in ocr, over 8 items: too few for an interval."


def test_a_gain_in_a_few_items_does_not_rule_out_losses() -> None:
    results = [
        PrimaryResult("qa", "anls", pairs([1.0, 2.0] * 4)),
        PrimaryResult("ocr", "cer", pairs([0.0] * 3)),
    ]
    verdict = decide_verdict(results, identical=False, failed=0)
    assert verdict.outcome == "gain"
    assert verdict.text == (
        "Gain of 15.0 points of ANLS in qa, over 8 items: too few for an interval. "
        "Too few items: 3 for ocr (at least 20 needed)."
    )
    many = decide_verdict([results[0], PrimaryResult("ocr", "cer", pairs([0.0] * 30))], identical=False, failed=0)
    assert many.text.endswith("too few for an interval. No measurable loss.")


def test_the_number_of_items_needed_is_reported() -> None:
    one, two = (
        decide_verdict([PrimaryResult("ocr", "cer", pairs(errors))], False, 0).text for errors in ([1.0], [0.0, 1.0])
    )
    assert one == "Too few items: 1 for ocr (at least 20 needed)."
    assert two == "Too few items: 2 for ocr (about 197 needed to detect a loss of one point)."


def test_a_set_that_cannot_show_a_loss_of_one_point() -> None:
    text = decide_verdict([PrimaryResult("ocr", "cer", pairs([2.0] + [0.0] * 29))], False, 0).text
    said = r"No measurable loss\. CER in ocr is at most \d\.\d points worse\. Detecting a loss of one point takes "
    assert re.fullmatch(said + r"[\d,]+ items; the set has 30\.", text)


def test_a_task_of_few_items_beside_one_of_many() -> None:
    results = [PrimaryResult("ocr", "cer", pairs([0.0] * 200)), PrimaryResult("qa", "anls", pairs([3.0]))]
    verdict = decide_verdict(results, identical=False, failed=1)
    assert verdict.outcome == "no measurable loss"
    assert verdict.text == (
        "No measurable loss. CER in ocr is at most 0.0 points worse. "
        "Too few items: 1 for qa (at least 20 needed). 1 item failed and counts as an empty answer."
    )


def test_nothing_answered_is_too_few() -> None:
    verdict = decide_verdict([], identical=False, failed=0)
    assert verdict.outcome == "too few items" and verdict.text.endswith("the reference answered none.")
