"""The recommendation: which model, and why."""

from __future__ import annotations

import json
import re

import msgspec
import pytest

from qvl_export.evaluate.report import render as pages
from qvl_export.evaluate.sets.dataset import EvalSet
from tests.evaluate.answer_patterns import TRUTH, Answer, rarely_wrong, report, right, wrong


def test_the_cheapest_bundle_without_loss_is_to_be_shipped(chosen: EvalSet) -> None:
    found = report(chosen, ("fp32", right, 4), ("fp16", right, 2), ("int8", rarely_wrong, 1), ("int4", wrong, 0.5))
    advice = found.recommendation
    assert advice is not None and (advice.title, advice.path) == (
        "int8",
        "/b/int8",
    )
    assert re.fullmatch(
        r"it has no measurable loss \(at most 0\.\d points of CER in ocr\), and it takes 4\.0 times less disk space "
        r"and 4\.0 times less memory than fp32; int4 loses accuracy\.",
        advice.reason,
    )
    assert f"**Ship int8**: {advice.reason}" in pages.markdown(found)
    page = pages.html(found)
    assert page.index("Ship int8.") < page.index('class="cards"')
    assert json.loads(msgspec.json.encode(found))["recommendation"]["title"] == "int8"


@pytest.mark.parametrize(
    ("models", "options", "title", "said"),
    [
        ([("fp16", right, 2), ("int4", wrong, 1)], {}, "fp16", "it is the reference itself; int4 loses accuracy."),
        ([("hf", right, 2), ("int4", wrong, 1)], {"hf": True}, None, "no bundle matches PyTorch; int4 loses accuracy."),
        ([("hf", right, 2), ("fp16", right, 2)], {"hf": True}, "fp16", "its answers are identical to the reference's."),
        (
            [("fp16", right, 2), ("copy", right, 2)],
            {},
            "fp16",
            "it is the reference itself; copy loses nothing but saves nothing overall.",
        ),
        (
            [("fp16", right, 2), ("fp32", right, 4), ("copy", right, 1.99)],
            {},
            "fp16",
            "it is the reference itself; copy loses nothing but saves too little; "
            "fp32 loses nothing but saves nothing overall.",
        ),
        (
            [("fp16", right, 2), ("int8", right, 1)],
            {"failing": "int8"},
            "fp16",
            "it is the reference itself; int8 fails on some items.",
        ),
    ],
)
def test_the_recommendation_if_no_bundle_is_better(
    chosen: EvalSet, models: list[tuple[str, Answer, float]], options: dict, title: str | None, said: str
) -> None:
    found = report(chosen, *models, **options).recommendation
    assert found is not None and (found.title, found.reason) == (title, said)


def test_nothing_is_recommended_on_too_few_items(chosen: EvalSet) -> None:
    few = EvalSet(chosen.directory, chosen.total, chosen.digest, tuple(range(5)))
    found = report(few, ("fp16", right, 2), ("int8", rarely_wrong, 1))
    assert found.recommendation is not None and found.recommendation.title is None
    assert (
        found.recommendation.reason
        == "the set has too few items for ocr to measure what int8 loses (at least 20 each)."
    )
    assert "**No recommendation yet**: the set has too few" in pages.markdown(found)


def test_a_possible_loss_is_reported_with_the_items_needed(chosen: EvalSet) -> None:
    def either(index: int) -> str:
        return TRUTH if index % 2 else "alpha"

    def other(index: int) -> str:
        return "alpha" if index % 2 else TRUTH

    found = report(chosen, ("fp16", either, 2), ("int8", other, 1)).recommendation
    assert found is not None and found.title is None
    said = r"int8 shows no loss, but a loss of up to 1\d\.\d points of CER in ocr cannot be ruled out"
    assert re.fullmatch(said + r" \(about [\d,]+ items would decide\)\.", found.reason)
