"""Sets of a few items: verdict, tables, page and gate report too few items instead of bounds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from qvl_export.evaluate.analysis.gates import parse_gate, undecided
from qvl_export.evaluate.analysis.statistics import MIN_ITEMS
from qvl_export.evaluate.report import render as pages
from qvl_export.evaluate.report.text import headline
from tests.evaluate.small_reports import TASKS, report


@pytest.mark.parametrize("items", [1, 4, TASKS * (MIN_ITEMS - 1)])
def test_too_few_items_are_reported_without_bounds(tmp_path: Path, items: int) -> None:
    found = report(tmp_path, items, 1)
    verdict = found.bundles[0].verdict
    each = (items + TASKS - 1) // TASKS
    assert verdict.outcome == "too few items"
    assert verdict.text.startswith(f"Too few items: {each} for ocr (")
    assert headline(found) == "other was evaluated on too few items."
    page, table = pages.html(found), pages.markdown(found)
    for text in (verdict.text, page, table):
        assert "at most" not in text and "No measurable loss" not in text
    assert f"{each} {'item' if each == 1 else 'items'}, too few)" in table
    assert '<span class="badge unsure">too few items</span>' in page  # not in the green of a good outcome
    shown = re.findall(r'<span class="value [^>]*>([^<]+)', page)
    assert shown and all(", too few)" in change for change in shown)
    assert f"fewer than {MIN_ITEMS} items, too few for an interval" in page
    assert all(score.too_few and score.items_needed >= MIN_ITEMS for score in found.bundles[0].scores)


def test_enough_items_have_bounds(tmp_path: Path) -> None:
    found = report(tmp_path, TASKS * MIN_ITEMS, 1)
    verdict = found.bundles[0].verdict
    assert verdict.outcome == "no measurable loss"
    assert re.match(r"No measurable loss\. \S+ in \w+ is at most \d+\.\d points worse", verdict.text)
    assert "too few" not in pages.markdown(found).lower() and not any(s.too_few for s in found.bundles[0].scores)
    assert undecided(found, [parse_gate("cer>+0pt")]) == []


def test_an_answer_without_agreement_may_differ(tmp_path: Path) -> None:
    """If the reference's distributions are missing, its answers are compared nevertheless."""
    found = report(tmp_path, TASKS * MIN_ITEMS, 1)
    assert found.bundles[0].agreement is None and found.bundles[0].verdict.outcome != "identical"
    (tmp_path / "equal").mkdir()
    assert report(tmp_path / "equal", TASKS * MIN_ITEMS, 0).bundles[0].verdict.outcome == "identical"
