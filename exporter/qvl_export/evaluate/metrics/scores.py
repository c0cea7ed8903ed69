"""The metrics and the tasks that they measure: one fraction (numerator, denominator) per item and metric.

A metric over a set is the sum of numerators / the sum of denominators. In CER, pages therefore weigh by their length
(micro-average), and statistics can resample items of any metric. Formulas are in docs/report.md.

To add a metric, write its function in a module of this folder, then add it to METRICS and to a task of TASKS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from . import teds as tables
from .boxes import PageGeometry, accuracy_at_50, boxes_parsed, mean_iou, parse_boxes
from .fraction import Fraction
from .json_scores import field_f1, fields, tool_call_match, tool_calls
from .text_normalization import normalize
from .text_scores import anls, error_rate, exact_match, without_whitespace, words

Scorer = Callable[[str, Sequence[str], PageGeometry], Fraction]
"""Scores an answer against the item's true answers, of which the best match counts."""


@dataclass(frozen=True)
class Metric:
    """A metric: its name in reports, its function, and whether lower is better.

    All metrics are fractions of one, shown as percent. With `mcnemar`, every item is right or wrong, and comparisons
    report McNemar's exact test too.
    """

    title: str
    score: Scorer
    lower_is_better: bool = False
    mcnemar: bool = False

    def loss(self, reference: float, other: float) -> float:
        """Returns how much worse `other` is, in the metric's unit."""
        return other - reference if self.lower_is_better else reference - other


METRICS = {
    "cer": Metric("CER", lambda answer, truths, _: error_rate(answer, truths), lower_is_better=True),
    "cer_nospace": Metric(
        "CER without spaces",
        lambda answer, truths, _: error_rate(answer, truths, without_whitespace),
        lower_is_better=True,
    ),
    "wer": Metric("WER", lambda answer, truths, _: error_rate(answer, truths, words), lower_is_better=True),
    "exact": Metric("Exact match", lambda answer, truths, _: exact_match(answer, truths), mcnemar=True),
    "anls": Metric("ANLS", lambda answer, truths, _: (anls(answer, truths), 1.0)),
    "field_f1": Metric("Field F1", lambda answer, truths, _: field_f1(answer, truths)),
    "teds": Metric("TEDS", lambda answer, truths, _: (max(tables.teds(answer, truth) for truth in truths), 1.0)),
    "teds_s": Metric(
        "TEDS-S", lambda answer, truths, _: (max(tables.teds(answer, truth, False) for truth in truths), 1.0)
    ),
    "iou": Metric("Mean IoU", mean_iou),
    "acc50": Metric("Acc@0.5", accuracy_at_50),
    "parsed": Metric("Boxes parsed", lambda answer, _, page: boxes_parsed(answer, page)),
    "tool": Metric("Tool call match", lambda answer, truths, _: tool_call_match(answer, truths), mcnemar=True),
}
"""Every metric by its name in report.json."""
TASKS: dict[str, tuple[str, ...]] = {
    "ocr": ("cer", "cer_nospace", "wer", "exact"),
    "qa": ("anls", "exact", "cer"),
    "kie": ("field_f1",),
    "table": ("teds", "teds_s"),
    "grounding": ("iou", "acc50", "parsed"),
    "tool": ("tool",),
}
"""The metrics of each task; the first is the primary metric, by which items and groups are judged."""


def primary_metric(task: str) -> str:
    """Returns the name of the metric by which items and groups of a task are judged."""
    return TASKS[task][0]


def score(task: str, answer: str, truths: Sequence[str], page: PageGeometry) -> dict[str, Fraction]:
    """Returns every metric of the task for one answer; if there are several truths, the best match counts."""
    return {name: METRICS[name].score(answer, truths, page) for name in TASKS[task]}


def truth_problem(task: str, truth: str) -> str:
    """Returns why the task's metrics cannot use a label's answer, as ` (the reason)`; empty if they can."""
    problem = _TRUTH_PROBLEMS.get(task, _empty)(truth)
    return f" ({problem})" if problem else ""


def _empty(truth: str) -> str:
    return "" if normalize(truth) else "it is empty"


def _not_fields(truth: str) -> str:
    return "" if fields(truth, {}) else "a JSON object with a value"


def _not_boxes(truth: str) -> str:
    return "" if parse_boxes(truth, PageGeometry.original((1, 1))) else 'JSON such as [{"bbox_2d": [0, 0, 9, 9]}]'


def _not_tool_calls(truth: str) -> str:
    return "" if tool_calls(truth) is not None else 'JSON such as {"name": "pay", "arguments": {}}'


_TRUTH_PROBLEMS: dict[str, Callable[[str], str]] = {
    "kie": _not_fields,
    "table": tables.truth_problem,
    "grounding": _not_boxes,
    "tool": _not_tool_calls,
}
"""Checks of the true answers of tasks that need a certain form; a check returns what is wrong or what is needed."""
