"""Reports of small sets, computed without a model."""

from __future__ import annotations

from pathlib import Path

from qvl_export.evaluate.analysis.results import Report
from qvl_export.evaluate.analysis.summary import summarize
from qvl_export.evaluate.answers.model_result import ModelResult
from qvl_export.evaluate.answers.records import Cost, Record, Records, record_writer
from qvl_export.evaluate.metrics.boxes import LABELS
from qvl_export.evaluate.sets.dataset import open_set
from tests.evaluate.test_many_items import make_set

TASKS = 4
"""Number of tasks of `make_set`, which takes them in turn."""


def report(directory: Path, items: int, spoilt: int) -> Report:
    """A report on `items` of four tasks in turn: the reference is right, the other wrong in the first `spoilt`."""
    chosen = open_set(make_set(directory / "set", items))
    for name in ("reference", "other"):
        with record_writer(directory, name, 0) as append:
            for item in chosen.items():
                answer = item.label.answers[0] + ("x" if name == "other" and item.index < spoilt else "")
                append(Record(item=item.index, answer=answer))
    models = [
        ModelResult(name, name, "fp32", "qwen2_vl", LABELS, 1.0, Cost(0, 0), Records(directory, name))
        for name in ("reference", "other")
    ]
    return summarize(chosen, models[0], models[1:], None)
