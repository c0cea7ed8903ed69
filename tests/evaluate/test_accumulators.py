"""What accumulators sum up, item by item."""

from __future__ import annotations

from pathlib import Path

import pytest

from qvl_export.common.labels import Label
from qvl_export.evaluate.analysis.accumulators import (
    MAX_WORST_ITEMS,
    AgreementAccumulator,
    ComparisonAccumulator,
    length_group,
)
from qvl_export.evaluate.answers.records import Record
from qvl_export.evaluate.answers.token_agreement import Agreement
from qvl_export.evaluate.metrics.boxes import LABELS, PageGeometry
from qvl_export.evaluate.metrics.scores import score
from qvl_export.evaluate.sets.dataset import Item

PAGE = PageGeometry.original((1, 1))


def add(found: ComparisonAccumulator, index: int, truth: str, answer: str, error: str = "") -> None:
    """Adds an item that the reference answered right."""
    label = Label(image="p.png", prompt="Read.", task="ocr", answers=[truth], kind=f"kind {index % 2}")
    item = Item(index, Path("p.png"), label)
    reference, own = Record(item=index, answer=truth), Record(item=index, answer=answer, error=error)
    found.add(item, reference, score("ocr", truth, [truth], PAGE), own, LABELS)


def test_worst_items_are_the_largest_losses_first() -> None:
    found = ComparisonAccumulator()
    for index in range(2 * MAX_WORST_ITEMS):
        add(found, index, "x" * 40, "x" * (40 - index))
    worst = found.worst_items()
    assert [item.item for item in worst] == list(range(2 * MAX_WORST_ITEMS - 1, MAX_WORST_ITEMS - 1, -1))
    assert worst[0].loss == pytest.approx((2 * MAX_WORST_ITEMS - 1) / 40) and worst[0].metric == "cer"


def test_a_failed_item_is_an_empty_answer() -> None:
    found = ComparisonAccumulator()
    add(found, 0, "abcd", "", error="EngineError: no")
    [cer, *_] = found.compare_metrics(["ocr"])
    assert (cer.metric, cer.reference, cer.other, found.failed) == ("cer", 0, 1, 1)
    assert found.worst_items()[0].error == "EngineError: no"


def test_groups_are_by_kind_and_by_length_in_order() -> None:
    found = ComparisonAccumulator()
    for index, length in enumerate((200, 9, 1)):
        add(found, index, "x" * length, "x")
    assert [(each.group, each.items) for each in found.compare_groups("kind:")] == [("kind 0", 2), ("kind 1", 1)]
    assert [each.group for each in found.compare_groups("length:")] == ["1–8", "9–32", "129–512"]


@pytest.mark.parametrize(
    ("length", "group"), [(1, "1–8"), (8, "1–8"), (9, "9–32"), (128, "33–128"), (512, "129–512"), (513, "513+")]
)
def test_length_groups(length: int, group: str) -> None:
    assert length_group("x" * length) == group


def test_agreement_is_summed_over_tokens() -> None:
    found = AgreementAccumulator()
    found.add(Record(answer="ab"), Record(answer="ab", agreement=Agreement([0.0, 1.0], 2, -1.0, -3.0, None)))
    found.add(Record(answer="cd"), Record(answer="", agreement=Agreement([2.0], 0, -1.0, -2.0, 0)))
    found.add(Record(answer="ef"), Record(answer="no reference"))
    summary = found.summary()
    assert summary is not None and (summary.items, summary.tokens, summary.kl_mean, summary.kl_max) == (2, 3, 1.0, 2.0)
    assert (summary.same_top, summary.same_answers, summary.diverging_items) == (2 / 3, 1, 1)
    assert (summary.empty_answers, summary.length_ratio) == (1, 0.5)
    assert summary.perplexity_ratio == pytest.approx(2.718281828)
    assert AgreementAccumulator().summary() is None
