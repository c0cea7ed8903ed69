"""Metrics against naive implementations, worked examples and published ones."""

from __future__ import annotations

import json
import random
import time
import tracemalloc
from collections.abc import Callable, Sequence
from functools import cache
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from qvl_export.evaluate.metrics import scores as metrics
from qvl_export.evaluate.metrics import teds as tables
from qvl_export.evaluate.metrics.boxes import PageGeometry, intersection_over_union, parse_boxes
from qvl_export.evaluate.metrics.scores import score

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
    assert metrics.words("かなA1カナ x-y。 \u3400") == [*"かな", "A1", *"カナ", "x-y。", "\u3400"]


def test_composed_and_decomposed_letters_are_equal() -> None:
    assert score("ocr", "Mu\u0308ller", ["M\u00fcller"], PAGE)["cer"] == (0, 6)


COMPOSED, DECOMPOSED = "M\u00fcller caf\u00e9", "Mu\u0308ller cafe\u0301"


@pytest.mark.parametrize("task", ["ocr", "qa"])
def test_no_metric_tells_ways_to_write_a_letter_apart(task: str) -> None:
    ways = product((COMPOSED, DECOMPOSED, f" {COMPOSED}\n"), repeat=2)
    scores = [score(task, answer, [truth], PAGE) for answer, truth in ways]
    assert scores == [scores[0]] * 9 and scores[0]["exact"] == (1, 1) and scores[0]["cer"] == (0, 11)


EXAMPLES = {
    "ocr": "total 12.00",
    "qa": "Yes",
    "kie": '{"total": "12.00"}',
    "table": "<table><tr><td>a<td>b</table>",
    "grounding": '[{"bbox_2d": [0, 0, 10, 10]}]',
    "tool": '{"name": "pay", "arguments": {}}',
}


@pytest.mark.parametrize("task", metrics.TASKS)
def test_nothing_is_better_than_the_truth_nor_worse_than_silence(task: str) -> None:
    assert metrics.truth_problem(task, EXAMPLES[task]) == ""
    truths = ["x" + EXAMPLES[task], EXAMPLES[task]]
    right, silent = (score(task, answer, truths, PAGE) for answer in (EXAMPLES[task], ""))
    for name in metrics.TASKS[task]:
        best, worst = (found[name][0] / found[name][1] for found in (right, silent))
        assert metrics.METRICS[name].loss(best, worst) == metrics.METRICS[name].loss(worst, best) * -1 == 1


@pytest.mark.parametrize("task", metrics.TASKS)
def test_blanks_are_no_truth_nor_words_where_a_structure_is_asked_for(task: str) -> None:
    needed = metrics.NEEDED.get(task, "has no <table>" if task == "table" else "it is empty")
    assert metrics.truth_problem(task, " \n") == f" ({needed})"
    assert metrics.truth_problem(task, "a") == ("" if task in ("ocr", "qa") else f" ({needed})")


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
    assert metrics.anls(answer, truths) == pytest.approx(expected)


def test_field_f1_is_micro_averaged() -> None:
    truth = json.dumps({"total": "12.00", "date": "2020-01-02", "items": [{"name": "tea"}], "tax": ""})
    assert metrics.field_f1('```json\n{"total": "12.00", "date": "2020-01-03"}\n```', truth) == (2, 5)
    assert metrics.field_f1(truth, truth) == (6, 6)
    assert metrics.field_f1("total 12.00", truth) == (0, 3)


def test_null_and_empty_are_no_fields_but_zero_and_false_are() -> None:
    found = metrics.fields('It is {"a": null, "b": "", "c": 0, "d": false, "e": [], "f": " x  y "}, as asked.', {})
    assert list(found.values()) == ["x y", "False", "0"]
    assert metrics.field_f1('{"a": 12}', '{"a": "12"}') == (2, 2)
    assert metrics.fields('["a"]', {}) == {}


def test_no_two_leaves_have_one_path() -> None:
    assert len(metrics.fields('{"a": {"k": 1}, "b": {"k": 2}, "c": {"k": 3}, "k": 4}', {})) == 4


@pytest.mark.parametrize("call", ['{"name": "pay"}', '{"arguments": {}}', "[]", "pay"])
def test_what_is_no_tool_call_equals_none(call: str) -> None:
    good = '{"name": "pay", "arguments": {}}'
    assert (
        metrics.tool_calls(call) is None
        and metrics.tool_calls(f"<tool_call>{good}</tool_call><tool_call>{call}") is None
    )
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


@pytest.mark.parametrize(
    ("family", "text"),
    [
        ("qwen2_vl", "<|object_ref_start|>sum<|object_ref_end|><|box_start|>(250,100),(500,200)<|box_end|>"),
        ("qwen2_vl", "(250,100),(500,200)"),
        ("qwen2_5_vl", '[{"bbox_2d": [112, 28, 224, 56], "label": "sum"}]'),
        ("qwen3_vl", '```json\n[{"bbox_2d": [250, 100, 500, 200]}]\n```'),
    ],
)
def test_boxes_of_every_family_are_pixels_of_the_image(family: str, text: str) -> None:
    assert parse_boxes(text, PageGeometry(family, (400, 300), (448, 280))) == [(100, 30, 200, 60)]


def test_intersection_over_union_counts_pixels() -> None:
    def cells(box: tuple[int, int, int, int]) -> set[tuple[int, int]]:
        return {(x, y) for x in range(box[0], box[2]) for y in range(box[1], box[3])}

    a, b = (2, 3, 9, 8), (5, 1, 12, 6)
    assert intersection_over_union(a, b) == len(cells(a) & cells(b)) / len(cells(a) | cells(b))
    assert intersection_over_union(a, (20, 20, 30, 30)) == 0


def test_grounding_scores_every_true_box_once() -> None:
    truth = '[{"bbox_2d": [0, 0, 10, 10]}, {"bbox_2d": [20, 0, 30, 10]}]'
    swapped = '[{"bbox_2d": [20, 0, 30, 10]}, {"bbox_2d": [0, 0, 10, 5]}, {"bbox_2d": [0, 0, 10, 10]}]'
    assert score("grounding", swapped, [truth], PAGE) == {"iou": (1.5, 2), "acc50": (2, 2), "parsed": (1, 1)}
    assert score("grounding", "nowhere", [truth], PAGE) == {"iou": (0, 2), "acc50": (0, 2), "parsed": (0, 1)}


def test_boxes_are_paired_from_the_best() -> None:
    """Each of two true boxes overlaps both of the answer's."""
    truth = '[{"bbox_2d": [0, 0, 10, 10]}, {"bbox_2d": [5, 0, 15, 10]}]'
    moved = '[{"bbox_2d": [5, 0, 15, 10]}, {"bbox_2d": [1, 0, 11, 10]}]'
    assert metrics.matched_ious(moved, truth, PAGE) == ([90 / 110, 1], True)


@pytest.mark.parametrize(
    ("given", "ious"),
    [  # the true box of the left is taken, and its next best box is for the other; the answer's best box is taken
        ('[{"bbox_2d": [0, 0, 10, 10]}, {"bbox_2d": [2, 0, 12, 10]}]', [1, 40 / 160]),
        ('[{"bbox_2d": [0, 0, 10, 10]}, {"bbox_2d": [40, 0, 50, 10]}]', [1, 0]),
    ],
)
def test_no_box_is_paired_twice(given: str, ious: list[float]) -> None:
    truth = '[{"bbox_2d": [0, 0, 10, 10]}, {"bbox_2d": [8, 0, 18, 10]}]'
    assert metrics.matched_ious(given, truth, PAGE)[0] == ious


@pytest.mark.parametrize(("right", "hit"), [(5, 1), (4, 0), (3, 0)])
def test_a_box_is_hit_where_half_is_shared(right: int, hit: int) -> None:
    given = f'[{{"bbox_2d": [0, 0, {right}, 10]}}]'
    assert score("grounding", given, ['[{"bbox_2d": [0, 0, 10, 10]}]'], PAGE)["acc50"] == (hit, 1)


def test_grounding_counts_the_truth_that_fits_best() -> None:
    near, far = '[{"bbox_2d": [0, 0, 10, 10]}]', '[{"bbox_2d": [20, 0, 30, 10]}, {"bbox_2d": [0, 0, 1, 1]}]'
    assert score("grounding", near, [far, near], PAGE) == {"iou": (1, 1), "acc50": (1, 1), "parsed": (1, 1)}
    assert score("grounding", far, [near, far], PAGE) == {"iou": (2, 2), "acc50": (2, 2), "parsed": (1, 1)}


# TEDS


def edit_distance(a: tables.Node, b: tables.Node, contents: bool = True) -> float:
    """Tree edit distance straight from its recursive definition over forests."""

    def rename(one: tables.Node, two: tables.Node) -> float:
        if (one.tag, one.colspan, one.rowspan) != (two.tag, two.colspan, two.rowspan):
            return 1.0
        return Levenshtein.normalized_distance(one.text, two.text) if contents and one.tag == "td" else 0.0

    def freeze(node: tables.Node) -> tuple:
        return (node.tag, node.colspan, node.rowspan, node.text), tuple(map(freeze, node.children))

    def thaw(label: tuple) -> tables.Node:
        return tables.Node(*label)

    @cache
    def distance(f: tuple, g: tuple) -> float:
        if not f and not g:
            return 0.0
        options = []
        if f:
            options.append(distance(f[:-1] + f[-1][1], g) + 1)
        if g:
            options.append(distance(f, g[:-1] + g[-1][1]) + 1)
        if f and g:
            change = rename(thaw(f[-1][0]), thaw(g[-1][0]))
            options.append(distance(f[:-1], g[:-1]) + distance(f[-1][1], g[-1][1]) + change)
        return min(options)

    return distance((freeze(a),), (freeze(b),))


def table(rows: list[list[str]]) -> str:
    return f"<table>{''.join('<tr>' + ''.join(f'<td>{c}</td>' for c in row) + '</tr>' for row in rows)}</table>"


_rows = st.lists(st.lists(st.sampled_from(["", "a", "ab", "12"]), min_size=1, max_size=3), min_size=1, max_size=3)


@settings(max_examples=60, deadline=None)
@given(_rows, _rows, st.booleans())
def test_teds_is_one_minus_edit_distance_over_nodes(a: list[list[str]], b: list[list[str]], contents: bool) -> None:
    nodes = max(sum(1 + len(row) for row in rows) for rows in (a, b))
    one, two = (tables.parse_table(table(rows)) for rows in (a, b))
    assert one is not None and two is not None
    expected = max(0.0, 1 - edit_distance(one, two, contents) / nodes)
    assert tables.teds(table(a), table(b), contents) == pytest.approx(expected)


def test_teds_worked_examples() -> None:
    truth = table([["a", "bb"], ["c", "d"]])
    assert tables.teds(truth, truth) == 1
    assert tables.teds(table([["a", "bx"], ["c", "d"]]), truth) == pytest.approx(1 - 0.5 / 6)
    assert tables.teds(table([["a", "bx"], ["c", "d"]]), truth, contents=False) == 1
    assert tables.teds(table([["a", "bb"]]), truth) == pytest.approx(1 - 3 / 6)
    assert tables.teds("no table here", truth) == 0
    assert tables.teds(truth.replace("<td>a", '<td colspan="2">a'), truth) == pytest.approx(1 - 1 / 6)


def test_a_row_split_in_two_keeps_its_cells() -> None:
    """One row deleted and another, and theirs inserted: cells are mapped though no row is."""
    whole, split = table([["a", "b", "c", "d"]]), table([["a", "b"], ["c", "d"]])
    assert tables.teds(whole, split) == tables.teds(split, whole) == pytest.approx(1 - 3 / 6)


def test_teds_is_never_below_zero() -> None:
    one, two = table([["a", "b", "c"]]), table([[]] * 4)
    assert tables.teds(one, two) == tables.teds(two, one) == tables.teds(one, "no table") == 0


def test_structure_and_contents_of_a_table_are_scored_apart() -> None:
    truth = table([["a", "b"]])
    assert score("table", table([["a", "x"]]), [table([["y"]]), truth], PAGE) == {
        "teds": (pytest.approx(1 - 1 / 3), 1),
        "teds_s": (1, 1),
    }


SPANS = (0, 1, 2, 999, 1000)


def test_cells_of_any_two_shapes_are_different() -> None:
    shapes = list(product(SPANS, repeat=2))
    cells = [f'<table><td colspan="{columns}" ROWSPAN={rows}>a</table>' for columns, rows in shapes]
    for one, two in product(cells, repeat=2):
        assert tables.teds(one, two) == pytest.approx(1 if one == two else 0.5)


@pytest.mark.parametrize(
    ("written", "meant"),
    [("colspan='2'", 2), ("colspan = 2", 2), ("colspan=x", 1), ("colspan=''", 1), ("acolspan=2", 1), ("colspan=-2", 1)]
    + [("colspan=1001", 1000), ("colspan=999999", 1000), ("colspan=1000000", 1)],
)
def test_spans_as_they_are_written(written: str, meant: int) -> None:
    parsed = tables.parse_table(f"<table><td {written}>a</table>")
    assert parsed is not None and parsed.children[0].children == [tables.Node("td", meant, 1, "a")]


@pytest.mark.parametrize(
    ("html", "rows"),
    [
        (
            "<td>no</td><table><tr><td>a</td>no</tr>no<tr><td>b</td></tr></table><table><tr><td>no</table>",
            [["a"], ["b"]],
        ),
        ("<table>no<tr>no<td>a</tr>no<td>b", [["a", "b"]]),
        ("<table><tr><td>a<tr><tr>no<th>b</th>no<td>", [["a"], [], ["b", ""]]),
        ("<table><td>a<br>b <i>c</i>&amp;<b>e</b>f<td>d&lt;e", [["a b c&ef", "d<e"]]),
        ("<table><td>a<table><tr><td>b<br></td></tr></table>c</td></table></table><td>no", [["abc"]]),
        ("</table></td><table><td>a<!x>b<?y?>c<!-- <td> --></table>", [["abc"]]),
        ("<table></table><table><td>no</table>", []),
    ],
)
def test_what_belongs_to_a_cell(html: str, rows: list[list[str]]) -> None:
    parsed = tables.parse_table(html)
    assert parsed is not None and [[cell.text for cell in row.children] for row in parsed.children] == rows


def test_garbled_declarations_end_a_table() -> None:
    """Python 3.11's parser raises AssertionError for them, later ones skip them."""
    assert tables.teds("<table><tr><td>a<td>b <![x[ </table>", table([["a", "b"]])) > 0


def test_teds_looks_through_headers_and_open_tags() -> None:
    truth = table([["a", "b"], ["c", "d"]])
    headed = "```html\n<table><thead><tr><th>a<th>b</thead><tbody><tr><td>c<td> d </table> and <td>more"
    assert tables.teds(headed, truth) == 1


@pytest.mark.parametrize(("rows", "columns"), [(6, 4), (1, 12), (12, 1)])
def test_teds_equals_the_recursive_distance_where_rows_are_empty_and_cells_span(rows: int, columns: int) -> None:
    rng = random.Random(rows)
    for _ in range(20):
        one, two = (spanning(rng, rows, columns) for _ in range(2))
        trees = [tables.parse_table(html) for html in (one, two)]
        nodes = max(sum(1 for _ in tree.walk()) for tree in trees if tree)
        expected = max(0.0, 1 - edit_distance(*trees) / max(nodes, 1))
        assert tables.teds(one, two) == pytest.approx(expected)


def spanning(rng: random.Random, rows: int, columns: int) -> str:
    """A table with rows of any length up to `columns`."""
    cells = ["<td>a</td>", "<td colspan=2>a</td>", "<td>ab</td>", "<th rowspan='3'></th>"]
    lines = ("".join(rng.choices(cells, k=rng.randint(0, columns))) for _ in range(rng.randint(0, rows)))
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def numbers(rows: int, columns: int, seed: int) -> str:
    rng = random.Random(seed)
    return table([[str(rng.randrange(10**6)) for _ in range(columns)] for _ in range(rows)])


def seconds(run: Callable[[], object]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


def test_teds_of_200_rows_takes_a_moment() -> None:
    assert seconds(lambda: tables.teds(numbers(200, 5, 0), numbers(200, 5, 1))) < 1.5


def test_cells_beyond_the_limit_count_as_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_NODES", 6)
    truth = table([["a", "b"], ["c", "d"]])
    assert tables.teds(table([["a", "b"], ["c", "d"], ["e"]]), truth) == pytest.approx(1 - 2 / 8)
    assert tables.teds(table([["a", "b"], ["c", "d", "e"], []]), truth) == pytest.approx(1 - 2 / 8)
    assert tables.teds(table([["a", "b", "x", "y", "z", "c"], ["d"]]), table([["a", "b"]])) == pytest.approx(1 - 6 / 9)
    late, wide, cut = [["x"]] * 3 + [["a", "b"], ["c", "d"]], [["x"] * 5 + ["a", "z"]], [["x"] * 4, ["y"]]
    assert tables.teds(table(late), truth) == 0
    assert tables.teds(table(wide), table([["a"]])) == pytest.approx(1 - 7 / 8)
    assert tables.teds(table(cut), table([["x"] * 4, []])) == pytest.approx(1 - 1 / 7)
    assert tables.teds(table([["x"]] * 3 + [["a", "z"]]), table([["x"]] * 3 + [["a"]])) == pytest.approx(1 - 3 / 9)
    assert metrics.truth_problem("table", truth) == ""
    assert metrics.truth_problem("table", table([["a"]] * 4)) == " (has 8 rows and cells, of at most 6)"


N = 200_000
HOSTILE_TABLES = {
    "open tags": "<a " * (N // 3),
    "open quotes": "<a b='" * (N // 6),
    "open comments": "<!--" * (N // 4),
    "open sections": "<![CDATA[" * (N // 9),
    "ends of comments": "-->" * (N // 3),
    "empty comments": "<!-->" * (N // 5),
    "less-than": "<" * N,
    "references": "&" * N,
    "an attribute": "<td " + " colspan" * (N // 8),
    "blanks in a tag": "<td a" + " " * N,
    "tables in tables": "<td><table>" * (N // 11),
    "breaks": "<td>" + "x<br>" * (N // 5),
    "cells": "<td>" * (N // 4),
    "rows": "<tr>" * (N // 4),
    "text": "<td>" + "x" * N,
}


@pytest.mark.parametrize("body", HOSTILE_TABLES.values(), ids=HOSTILE_TABLES)
def test_a_hostile_table_is_scored_in_a_moment(body: str) -> None:
    truth = numbers(20, 5, 0)
    assert seconds(lambda: score("table", f"<table>{body}", [truth], PAGE)) < 5


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


def test_fields_are_found_by_their_whole_path() -> None:
    truth = '{"a": {"b": "1"}, "c": ["2", "3"]}'
    assert metrics.field_f1('{"a": {"b": "1"}, "c": ["2", "4"]}', truth) == (4, 6)
    assert metrics.field_f1('{"b": {"a": "1"}, "c": ["3", "2"]}', truth) == (0, 6)
    assert metrics.field_f1(f"  ```json\n{truth}\n```\n", truth) == (6, 6)


def test_comments_of_a_table_are_left_out() -> None:
    truth = table([["a", "b"]])
    assert tables.teds(truth.replace("<td>b", "<!-- <td>x --><td>b<!-- open"), truth) == pytest.approx(1 - 9 / 10 / 3)
    assert tables.teds("<!doctype html>" + truth.replace("b", "b<!-- -->"), truth) == 1
    assert tables.teds("<TABLE><TR><TD CLASS=x>&#97;<TD>b</TABLE>", truth) == 1
