"""Reports of models that answer one hundred and twenty items by a pattern."""

from __future__ import annotations

from collections.abc import Callable

from qvl_export.evaluate.analysis.results import Report
from qvl_export.evaluate.analysis.summary import summarize
from qvl_export.evaluate.answers.model_result import ModelResult
from qvl_export.evaluate.answers.records import Cost, Record, Records, record_writer
from qvl_export.evaluate.metrics.boxes import LABELS
from qvl_export.evaluate.sets.dataset import EvalSet

ITEMS = 120


TRUTH = "alpha beta gamma delta"


Answer = Callable[[int], str]


def right(_: int) -> str:
    return TRUTH


def wrong(_: int) -> str:
    return "alpha beta gamma delt"


def rarely_wrong(index: int) -> str:
    return wrong(index) if index % 30 == 0 else TRUTH


def spread_errors(index: int) -> str:
    """As many wrong characters as in `gathered_errors`, but in three words instead of one."""
    return "alphX bXta gammX delta" if index % 3 else "alpha beta gamma delta"


def gathered_errors(index: int) -> str:
    return "alpha beta gXXXa delta" if index % 3 else "alpha beta gamma delta"


def report(chosen: EvalSet, *models: tuple[str, Answer, float], hf: bool = False, failing: str = "") -> Report:
    """What a report says of models by name, answers, and cost in MB and memory; the first is the reference."""
    for name, answer, _ in models:
        with record_writer(chosen.directory, name, 0) as append:
            for item in chosen.items():
                error = "EngineError: no" if name == failing and not item.index else ""
                times = {"first_token_seconds": 0.1, "decode_seconds": 0.1}
                append(Record(item=item.index, answer="" if error else answer(item.index), error=error, **times))
    found = [
        ModelResult(
            name, f"/b/{name}", "fp16", "qwen2_vl", LABELS, size, Cost(1.0, 100 * size), Records(chosen.directory, name)
        )
        for name, _, size in models
    ]
    reference = ModelResult(**{**vars(found[0]), "family": "", "boxes": None}) if hf else found[0]
    return summarize(chosen, reference, found[1:], None)
