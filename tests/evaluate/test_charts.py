"""The plots of a report."""

from __future__ import annotations

import msgspec

from qvl_export.evaluate.report.charts import MAX_SQNR_SHOWN, layer_plot, trade_offs
from qvl_export.evaluate.sets.dataset import EvalSet
from qvl_export.evaluate.trace.blame import Blame
from qvl_export.evaluate.trace.diagnosis import Stage
from qvl_export.evaluate.trace.similarity import Similarity
from tests.evaluate.answer_patterns import report, right, wrong


def test_each_task_has_a_plot_against_size_and_one_against_time(chosen: EvalSet) -> None:
    plots = trade_offs(report(chosen, ("fp16", right, 2), ("int8", wrong, 1)))
    assert [plot["title"] for plot in plots] == ["CER in ocr against size in MB", "CER in ocr against seconds per item"]
    assert all(plot["svg"].count('class="point') == 2 for plot in plots)


def test_layers_have_a_line_for_vision_tokens_and_one_for_text_tokens(chosen: EvalSet) -> None:
    found = report(chosen, ("fp16", right, 2), ("int8", wrong, 1))
    assert layer_plot(found) == {}
    equal, noisy = Similarity(1.0, None), Similarity(0.9, 20.0)
    stages = [Stage("vision.blocks.0", equal, equal, None), Stage("llm.layers.0", noisy, noisy, noisy)]
    blamed = Blame("fp16", "int8", "?", [], "llm.layers.0", "llm.layers.0", "a drop", stages)
    plot = layer_plot(msgspec.structs.replace(found, blame={"int8": blamed}))
    assert plot["svg"].count("<circle") == 3 and f": {MAX_SQNR_SHOWN:.1f} dB" in plot["svg"]
    assert [each["text"] for each in plot["found"]] == ["a drop"]
