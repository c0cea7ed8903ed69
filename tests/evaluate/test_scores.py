"""What holds for the metrics of every task."""

from __future__ import annotations

import math

import pytest

from qvl_export.evaluate.analysis.gates import parse_gate
from qvl_export.evaluate.metrics.boxes import PageGeometry
from qvl_export.evaluate.metrics.scores import METRICS, TASKS, score, truth_problem

PAGE = PageGeometry.original((400, 300))


EXAMPLES = {
    "ocr": "total 12.00",
    "qa": "Yes",
    "kie": '{"total": "12.00"}',
    "table": "<table><tr><td>a<td>b</table>",
    "grounding": '[{"bbox_2d": [0, 0, 10, 10]}]',
    "tool": '{"name": "pay", "arguments": {}}',
}
"""A true answer of each task."""
FORMS = {
    "kie": "a JSON object with a value",
    "table": "has no <table>",
    "grounding": 'JSON such as [{"bbox_2d": [0, 0, 9, 9]}]',
    "tool": 'JSON such as {"name": "pay", "arguments": {}}',
}
"""What is said of true answers that lack the form that their task needs."""


@pytest.mark.parametrize("task", TASKS)
def test_the_truth_is_the_best_answer_and_silence_the_worst(task: str) -> None:
    assert truth_problem(task, EXAMPLES[task]) == ""
    truths = ["x" + EXAMPLES[task], EXAMPLES[task]]
    right, silent = (score(task, answer, truths, PAGE) for answer in (EXAMPLES[task], ""))
    for name in TASKS[task]:
        best, worst = (found[name][0] / found[name][1] for found in (right, silent))
        assert METRICS[name].loss(best, worst) == METRICS[name].loss(worst, best) * -1 == 1


ODD_ANSWERS = [
    "\0",
    "\ud800",
    "٣²",
    "-",
    "<",
    "{" * 5000,
    "[" * 5000,
    "<table>" * 50,
    '{"bbox_2d": [NaN, 1e999]}',
    "null",
]
"""What no model should answer, and some do."""


@pytest.mark.parametrize("task", TASKS)
def test_odd_answers_are_scored(task: str) -> None:
    """Reports count every item, so that every denominator is at least 1, whatever answer and truth."""
    truths = [EXAMPLES[task]] if task in FORMS else [EXAMPLES[task], "a", "-", "中"]
    for answer in (*truths, "", *ODD_ANSWERS):
        for truth in truths:
            for name, (above, below) in score(task, answer, [truth], PAGE).items():
                assert 0 <= above < math.inf and 1 <= below < math.inf, (name, answer, truth)


def test_every_metric_is_of_a_task_and_can_be_a_gate() -> None:
    assert set(METRICS) == {name for metrics in TASKS.values() for name in metrics}
    for name, metric in METRICS.items():
        assert parse_gate(f"{name}{'>+' if metric.lower_is_better else '<-'}0.5pt").metric == name


@pytest.mark.parametrize("task", TASKS)
def test_a_truth_of_the_wrong_form_is_refused(task: str) -> None:
    needed = FORMS.get(task, "it is empty")
    assert truth_problem(task, " \n") == f" ({needed})"
    assert truth_problem(task, "a") == (f" ({needed})" if task in FORMS else "")


def test_the_truth_of_the_lowest_rate_counts_not_that_of_the_fewest_edits() -> None:
    assert score("ocr", "ab", ["a", "abcdef"], PAGE)["cer"] == (4, 6)
    assert score("ocr", "a b", ["a", "a b c d e f"], PAGE)["wer"] == (4, 6)
    one, two = '{"a": "1"}', '{"a": "2", "b": "2", "c": "3", "d": "4"}'
    assert score("kie", '{"a": "1", "b": "2", "c": "3", "d": "4"}', [one, two], PAGE)["field_f1"] == (6, 8)
    assert score("kie", '{"a": "1"}', [one, '{"a": "1", "b": "2"}'], PAGE)["field_f1"] == (2, 2)
    one, two = '[{"bbox_2d": [0, 0, 8, 10]}]', '[{"bbox_2d": [0, 0, 10, 10]}, {"bbox_2d": [20, 0, 30, 10]}]'
    assert score("grounding", '[{"bbox_2d": [0, 0, 10, 10]}]', [one, two], PAGE)["iou"] == (0.8, 1)


def test_the_best_of_several_truths_counts() -> None:
    assert score("qa", "12.00", ["$ 12.00 total", "12.00"], PAGE) == {"anls": (1, 1), "exact": (1, 1), "cer": (0, 5)}
