"""Sets of a few items: verdict, tables, page and gate say that nothing can be told, and make no bound of them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from qvl_export.evaluate.analysis.results import Report
from qvl_export.evaluate.analysis.statistics import ENOUGH, Paired, interval, resampled
from qvl_export.evaluate.analysis.summary import summarise
from qvl_export.evaluate.analysis.verdict import Finding, exceeded, give_verdict, parse_gate, undecided
from qvl_export.evaluate.answers.contender import Contender
from qvl_export.evaluate.answers.records import Cost, Record, Records, appending
from qvl_export.evaluate.report import render as pages
from qvl_export.evaluate.report.text import headline
from qvl_export.evaluate.sets.dataset import open_set
from tests.evaluate.test_many_items import make_set

TASKS = 4
"""Of `make_set`, by turns."""


def report(directory: Path, items: int, spoilt: int) -> Report:
    """Of `items` answered right by the reference, by turns of four tasks; the other wrote one sign too many in some."""
    chosen = open_set(make_set(directory / "set", items))
    for name in ("reference", "other"):
        with appending(directory, name, 0) as append:
            for item in chosen.items():
                answer = item.label.answers[0] + ("x" if name == "other" and item.index < spoilt else "")
                append(Record(item=item.index, answer=answer))
    models = [
        Contender(name, name, "fp32", "qwen2_vl", 1.0, Cost(0, 0), Records(directory, name))
        for name in ("reference", "other")
    ]
    return summarise(chosen, models[0], models[1:], None)


@pytest.mark.parametrize("items", [1, 4, TASKS * (ENOUGH - 1)])
def test_too_few_items_are_told_and_bounded_nowhere(tmp_path: Path, items: int) -> None:
    found = report(tmp_path, items, 1)
    verdict = found.bundles[0].verdict
    each = (items + TASKS - 1) // TASKS
    assert verdict.outcome == "too few items"
    assert verdict.text.startswith(f"Too few items to tell: {each} of ocr, ")
    assert headline(found) == "other was asked too few items to tell."
    page, table = pages.html(found), pages.markdown(found)
    for text in (verdict.text, page, table):
        assert "at most" not in text and "No measurable loss" not in text
    assert f"{each} {'item' if each == 1 else 'items'}: too few to tell" in table
    assert '<span class="badge unsure">too few items</span>' in page  # not in the green of a good outcome
    shown = re.findall(r'<span class="value [^>]*>([^<]+)', page)
    assert shown and all("too few to tell" in change for change in shown)
    assert f"fewer than {ENOUGH} items, too few for an interval" in page
    assert all(score.too_few and score.items_needed >= ENOUGH for score in found.bundles[0].scores)


def test_enough_items_read_as_ever(tmp_path: Path) -> None:
    found = report(tmp_path, TASKS * ENOUGH, 1)
    verdict = found.bundles[0].verdict
    assert verdict.outcome == "no measurable loss"
    assert re.match(r"No measurable loss\. \S+ in \w+ is at most \d+\.\d points worse", verdict.text)
    assert "too few" not in pages.markdown(found).lower() and not any(s.too_few for s in found.bundles[0].scores)
    assert undecided(found, [parse_gate("cer>+0pt")]) == []


def test_an_answer_without_agreement_may_differ(tmp_path: Path) -> None:
    """Where the reference's distributions were missing; its answers are compared all the same."""
    found = report(tmp_path, TASKS * ENOUGH, 1)
    assert found.bundles[0].agreement is None and found.bundles[0].verdict.outcome != "identical"
    (tmp_path / "equal").mkdir()
    assert report(tmp_path / "equal", TASKS * ENOUGH, 0).bundles[0].verdict.outcome == "identical"


def test_a_gate_is_not_decided_by_one_item(tmp_path: Path) -> None:
    found, gates = report(tmp_path, 1, 1), [parse_gate("cer>+0.0pt")]
    (score,) = (each for each in found.bundles[0].scores if each.metric == "cer")
    assert score.difference == score.low == score.high > 0, "the bootstrap of one item has no width"
    assert exceeded(found, gates) == []
    assert undecided(found, gates) == ["other: CER in ocr has 1 item, too few to tell (at least 20 are needed)"]


def pairs(errors: list[float]) -> Paired:
    """Characters wrong of ten an item; the reference makes no error."""
    return Paired(np.array([[0.0] * len(errors), errors]), np.full((2, len(errors)), 10.0))


def test_a_loss_in_every_one_of_a_few_items_is_one_without_bounds() -> None:
    """Eight items all worse: chance would be one in 128, which holds for any number of items."""
    verdict = give_verdict([Finding("ocr", "cer", pairs([1.0, 2.0] * 4))], identical=False, failed=0)
    assert verdict.outcome == "loss"
    assert verdict.text == "Loss of 15.0 points of CER in ocr, in 8 items: too few to bound it."


def test_a_gain_in_a_few_items_says_nothing_of_losses() -> None:
    findings = [Finding("qa", "anls", pairs([1.0, 2.0] * 4)), Finding("ocr", "cer", pairs([0.0] * 3))]
    verdict = give_verdict(findings, identical=False, failed=0)
    assert verdict.outcome == "gain"
    assert verdict.text == (
        "Gain of 15.0 points of ANLS in qa, in 8 items: too few to bound it. "
        "Too few items to tell: 3 of ocr, it takes at least 20."
    )
    many = give_verdict([findings[0], Finding("ocr", "cer", pairs([0.0] * 30))], identical=False, failed=0)
    assert many.text.endswith("too few to bound it. No measurable loss.")


def test_what_it_takes_is_told_where_it_can_be_computed() -> None:
    one, two = (give_verdict([Finding("ocr", "cer", pairs(errors))], False, 0).text for errors in ([1.0], [0.0, 1.0]))
    assert one == "Too few items to tell: 1 of ocr, it takes at least 20."
    assert two == "Too few items to tell: 2 of ocr, seeing a loss of one point would take some 197."


def test_a_task_of_few_items_beside_one_of_many() -> None:
    findings = [Finding("ocr", "cer", pairs([0.0] * 200)), Finding("qa", "anls", pairs([3.0]))]
    verdict = give_verdict(findings, identical=False, failed=1)
    assert verdict.outcome == "no measurable loss"
    assert verdict.text == (
        "No measurable loss. CER in ocr is at most 0.0 points worse. "
        "Too few items to tell: 1 of qa, it takes at least 20. 1 item failed and count as empty answers."
    )


def test_nothing_answered_is_too_few() -> None:
    verdict = give_verdict([], identical=False, failed=0)
    assert verdict.outcome == "too few items" and verdict.text.endswith("the reference answered none.")


def test_the_interval_of_few_items_is_too_short() -> None:
    """Normal differences without a mean: of `ENOUGH` items the bootstrap is near its level, of four far from it."""
    rng, missed = np.random.default_rng(0), {}
    for items in (4, ENOUGH):
        drawn = (Paired(rng.standard_normal((2, items)), np.ones((2, items))) for _ in range(400))
        missed[items] = sum(interval(resampled(each, seed, 500)).excludes_zero() for seed, each in enumerate(drawn))
    assert missed[ENOUGH] / 400 < 0.1 < 0.15 < missed[4] / 400
