"""Gates: parsing and decisions."""

from __future__ import annotations

from pathlib import Path

import pytest

from qvl_export.errors import ExportError
from qvl_export.evaluate.analysis.gates import exceeded, parse_gate, undecided
from tests.evaluate.small_reports import report


def test_a_gate_is_not_decided_by_one_item(tmp_path: Path) -> None:
    found, gates = report(tmp_path, 1, 1), [parse_gate("cer>+0.0pt")]
    (score,) = (each for each in found.bundles[0].scores if each.metric == "cer")
    assert score.difference == score.low == score.high > 0, "the bootstrap of one item has no width"
    assert exceeded(found, gates) == []
    assert undecided(found, gates) == ["other: CER in ocr has 1 item, too few to decide (at least 20 needed)"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cer", "is not a condition (such as cer>+0.5pt"),
        ("bleu>1", "is not a condition"),
        ("cer<-1", "is not a loss of CER (cer>+1pt)"),
        ("anls>+1pt", "is not a loss of ANLS (anls<-1pt)"),
    ],
)
def test_malformed_gates_are_refused(text: str, said: str) -> None:
    with pytest.raises(ExportError) as error:
        parse_gate(text)
    assert said in str(error.value)
