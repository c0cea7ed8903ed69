"""The costs of a model, from the times in its records."""

from __future__ import annotations

import pytest

from qvl_export.evaluate.analysis.summary import measure_speed
from qvl_export.evaluate.answers.model_result import ModelResult
from qvl_export.evaluate.answers.records import Cost, Record, Records, record_writer
from qvl_export.evaluate.metrics.boxes import LABELS
from qvl_export.evaluate.report.text import _row
from qvl_export.evaluate.sets.dataset import EvalSet


def test_answers_of_one_token_have_no_speed(chosen: EvalSet) -> None:
    """Neither do they slow others down."""
    one = Record(item=0, tokens=[1], first_token_seconds=1.0, decode_seconds=1.0)
    for name, others in (("alone", []), ("beside", [Record(item=1, tokens=[1, 2, 3], decode_seconds=1.0)])):
        with record_writer(chosen.directory, name, 0) as append:
            for record in (one, *others):
                append(record)
    alone, beside = (
        measure_speed(
            ModelResult("a", "a", "fp16", "qwen2_vl", LABELS, 1.0, Cost(0, 0), Records(chosen.directory, name)), chosen
        )
        for name in ("alone", "beside")
    )
    assert alone.tokens_per_second is None and _row("a", 1.0, [], alone)[4] == ""
    assert beside.tokens_per_second == 2.0 and _row("a", 1.0, [], beside)[4] == "2"


def test_speed_is_that_of_answered_items(chosen: EvalSet) -> None:
    with record_writer(chosen.directory, "a", 0) as append:
        append(Record(item=0, tokens=[1, 2, 3], first_token_seconds=1.0, decode_seconds=2.0))
        append(Record(item=1, tokens=[1], first_token_seconds=9.0, fresh=False))
        append(Record(item=2, error="no"))
    result = ModelResult("a", "a", "fp16", "qwen2_vl", LABELS, 1.234, Cost(0.5, 99.0), Records(chosen.directory, "a"))
    found = measure_speed(result, chosen)
    assert (found.size_mb, found.load_seconds, found.peak_memory_mb) == (1.23, 0.5, 99.0)
    assert (found.first_token_ms, found.tokens_per_second) == (1000.0, 1.0), "only the item with a new page"
    assert found.seconds_per_item == pytest.approx(6.0)


def test_answers_in_one_piece_have_no_speed(chosen: EvalSet) -> None:
    with record_writer(chosen.directory, "a", 0) as append:
        append(Record(item=0, generated=500, first_token_seconds=1.0))
        append(Record(item=1, generated=3, first_token_seconds=1.0, decode_seconds=2.0))
    result = ModelResult("a", "a", "", "", None, 0.0, Cost(0, 0), Records(chosen.directory, "a"), True)
    assert measure_speed(result, chosen).tokens_per_second == 1.0
