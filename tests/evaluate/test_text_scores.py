"""CER, WER and ANLS against naive implementations and worked examples."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qvl_export.evaluate.metrics.boxes import PageGeometry
from qvl_export.evaluate.metrics.scores import score
from qvl_export.evaluate.metrics.text_scores import anls, words

PAGE = PageGeometry.original((400, 300))


def wagner_fischer(a: Sequence[str], b: Sequence[str]) -> int:
    """Edits by the textbook's table."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(previous[j] + 1, row[-1] + 1, previous[j - 1] + (x != y)))
    return row[-1]


@given(st.text("ab 中\n", max_size=8), st.text("ab 中\n", min_size=1, max_size=8))
def test_error_rates_count_edits(answer: str, truth: str) -> None:
    scores = score("ocr", answer, [truth], PAGE)
    assert scores["cer"] == (wagner_fischer(answer.strip(), truth.strip()), len(truth.strip()))
    bare, wanted = "".join(answer.split()), "".join(truth.split())
    assert scores["cer_nospace"] == (wagner_fischer(bare, wanted), len(wanted))


def test_word_error_rate_takes_an_ideograph_for_a_word() -> None:
    assert score("ocr", "the cat sat", ["the cat sat down"], PAGE)["wer"] == (1, 4)
    assert score("ocr", "发票 A1", ["发票号 A1"], PAGE)["wer"] == (1, 4)
    assert words("かなA1カナ x-y。 \u3400") == [*"かな", "A1", *"カナ", "x-y。", "\u3400"]


def test_composed_and_decomposed_letters_are_equal() -> None:
    assert score("ocr", "Mu\u0308ller", ["M\u00fcller"], PAGE)["cer"] == (0, 6)


COMPOSED, DECOMPOSED = "M\u00fcller caf\u00e9", "Mu\u0308ller cafe\u0301"


@pytest.mark.parametrize("task", ["ocr", "qa"])
def test_every_metric_ignores_unicode_composition(task: str) -> None:
    ways = product((COMPOSED, DECOMPOSED, f" {COMPOSED}\n"), repeat=2)
    scores = [score(task, answer, [truth], PAGE) for answer, truth in ways]
    assert scores == [scores[0]] * 9 and scores[0]["exact"] == (1, 1) and scores[0]["cer"] == (0, 11)


@pytest.mark.parametrize(
    ("answer", "truths", "expected"),
    [  # the last but one: NL = 0.5 is not below the threshold
        ("Coca  COLA", ["coca cola"], 1.0),
        ("coca cola", ["COCA  Cola"], 1.0),
        ("coca cole", ["coca cola", "pepsi"], 8 / 9),
        ("abxy", ["cbxy"], 0.75),
        ("abcxy", ["123xy"], 0.0),
        ("abxyz", ["12xyz"], 0.6),
        ("ab", ["cb"], 0.0),
        ("", ["yes"], 0.0),
    ],
)
def test_anls(answer: str, truths: list[str], expected: float) -> None:
    assert anls(answer, truths) == pytest.approx(expected)
