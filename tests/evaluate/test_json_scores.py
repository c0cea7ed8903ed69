"""Field F1 and tool calls: worked examples, and answers designed to be slow."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from qvl_export.evaluate.metrics.boxes import PageGeometry
from qvl_export.evaluate.metrics.json_scores import field_f1, fields, tool_calls
from qvl_export.evaluate.metrics.scores import score
from tests.evaluate.timing import seconds

PAGE = PageGeometry.original((400, 300))
N = 200_000


def test_field_f1_is_micro_averaged() -> None:
    truth = json.dumps({"total": "12.00", "date": "2020-01-02", "items": [{"name": "tea"}], "tax": ""})
    assert field_f1('```json\n{"total": "12.00", "date": "2020-01-03"}\n```', [truth]) == (2, 5)
    assert field_f1(truth, [truth]) == (6, 6)
    assert field_f1("total 12.00", [truth]) == (0, 3)


def test_null_and_empty_are_not_fields_but_zero_and_false_are() -> None:
    found = fields('It is {"a": null, "b": "", "c": 0, "d": false, "e": [], "f": " x  y "}, as asked.', {})
    assert list(found.values()) == ["x y", "False", "0"]
    assert field_f1('{"a": 12}', ['{"a": "12"}']) == (2, 2)
    assert fields('["a"]', {}) == {}


def test_no_two_leaves_have_one_path() -> None:
    assert len(fields('{"a": {"k": 1}, "b": {"k": 2}, "c": {"k": 3}, "k": 4}', {})) == 4


def test_fields_are_found_by_their_whole_path() -> None:
    truth = '{"a": {"b": "1"}, "c": ["2", "3"]}'
    assert field_f1('{"a": {"b": "1"}, "c": ["2", "4"]}', [truth]) == (4, 6)
    assert field_f1('{"b": {"a": "1"}, "c": ["3", "2"]}', [truth]) == (0, 6)
    assert field_f1(f"  ```json\n{truth}\n```\n", [truth]) == (6, 6)


@pytest.mark.parametrize("call", ['{"name": "pay"}', '{"arguments": {}}', "[]", "pay"])
def test_malformed_tool_calls_never_match(call: str) -> None:
    good = '{"name": "pay", "arguments": {}}'
    assert tool_calls(call) is None and tool_calls(f"<tool_call>{good}</tool_call><tool_call>{call}") is None
    assert score("tool", call, [call, good], PAGE)["tool"] == (0, 1)


def test_tool_calls_are_compared_in_order() -> None:
    one, two = (f'<tool_call>{{"name": "{name}", "arguments": {{}}}}</tool_call>' for name in "ab")
    assert score("tool", one + two, [one, one + two], PAGE)["tool"] == (1, 1)
    assert score("tool", two + one, [one, one + two], PAGE)["tool"] == (0, 1)


def test_tool_calls() -> None:
    truth = '<tool_call>\n{"name": "pay", "arguments": {"sum": 12, "to": "A"}}\n</tool_call>'
    assert (
        score("tool", '<tool_call>{"arguments": {"to": "A", "sum": 12}, "name": "pay"}', [truth], PAGE)["tool"][0] == 1
    )
    assert score("tool", truth.replace("12", "13"), [truth], PAGE)["tool"][0] == 0
    assert score("tool", truth + truth, [truth], PAGE)["tool"][0] == 0
    assert score("tool", "pay 12 to A", [truth], PAGE)["tool"][0] == 0


HOSTILE_JSON = {
    "blanks": " " * N + "x",
    "blanks in a fence": "```json" + " " * N + "x",
    "fences": "```" * (N // 3),
    "word of a fence": "```" + "w" * N,
    "calls": "<tool_call>" * (N // 11),
    "nesting": '{"a":' * (N // 5),
    "lists": '{"a":' + "[" * N,
    "a long key before many leaves": json.dumps({"k" * (N // 2): [1] * (N // 6)}),
    "long keys above each other": '{"a":1,"' + ("k" * 1000 + '":{"a":1,"') * 500 + 'b":1' + "}" * 501,
}


@pytest.mark.parametrize("task", ["kie", "tool"])
@pytest.mark.parametrize("answer", HOSTILE_JSON.values(), ids=HOSTILE_JSON)
def test_hostile_json_is_scored_in_a_moment(task: str, answer: str) -> None:
    truth = {"kie": '{"a": 1}', "tool": '{"name": "a", "arguments": {}}'}[task]
    tracemalloc.start()
    try:
        assert seconds(lambda: score(task, answer, [truth], PAGE)) < 5
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()
