"""TEDS against its recursive definition, worked examples, and tables designed to be slow."""

from __future__ import annotations

import random
from functools import cache
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from qvl_export.evaluate.metrics import teds as tables
from qvl_export.evaluate.metrics.boxes import PageGeometry
from qvl_export.evaluate.metrics.scores import score, truth_problem
from tests.evaluate.timing import seconds

PAGE = PageGeometry.original((400, 300))
N = 200_000


def edit_distance(a: tables.TableNode, b: tables.TableNode, contents: bool = True) -> float:
    """Tree edit distance straight from its recursive definition over forests."""

    def rename(one: tables.TableNode, two: tables.TableNode) -> float:
        if (one.tag, one.colspan, one.rowspan) != (two.tag, two.colspan, two.rowspan):
            return 1.0
        return Levenshtein.normalized_distance(one.text, two.text) if contents and one.tag == "td" else 0.0

    def freeze(node: tables.TableNode) -> tuple:
        return (node.tag, node.colspan, node.rowspan, node.text), tuple(map(freeze, node.children))

    def thaw(label: tuple) -> tables.TableNode:
        return tables.TableNode(*label)

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
def test_spans_as_models_write_them(written: str, meant: int) -> None:
    parsed = tables.parse_table(f"<table><td {written}>a</table>")
    assert parsed is not None and parsed.children[0].children == [tables.TableNode("td", meant, 1, "a")]


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
def test_the_text_of_cells(html: str, rows: list[list[str]]) -> None:
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
def test_teds_of_empty_rows_and_spanning_cells_equals_the_recursive_distance(rows: int, columns: int) -> None:
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
    assert truth_problem("table", truth) == ""
    assert truth_problem("table", table([["a"]] * 4)) == " (has 8 rows and cells, of at most 6)"


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


@pytest.mark.slow
@pytest.mark.parametrize("body", HOSTILE_TABLES.values(), ids=HOSTILE_TABLES)
def test_a_hostile_table_is_scored_in_a_moment(body: str) -> None:
    truth = numbers(20, 5, 0)
    assert seconds(lambda: score("table", f"<table>{body}", [truth], PAGE)) < 5


def test_comments_of_a_table_are_left_out() -> None:
    truth = table([["a", "b"]])
    assert tables.teds(truth.replace("<td>b", "<!-- <td>x --><td>b<!-- open"), truth) == pytest.approx(1 - 9 / 10 / 3)
    assert tables.teds("<!doctype html>" + truth.replace("b", "b<!-- -->"), truth) == 1
    assert tables.teds("<TABLE><TR><TD CLASS=x>&#97;<TD>b</TABLE>", truth) == 1
