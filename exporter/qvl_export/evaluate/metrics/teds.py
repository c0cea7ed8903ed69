"""TEDS of HTML tables (Zhong, ShafieiBavani, Jimeno Yepes 2020): 1 − tree edit distance / nodes of the larger tree.

Rows and cells are the nodes. As in OmniDocBench, header cells count as cells, and `thead`, `tbody` and `tfoot` are
ignored, because they express style. Parsing takes time linear in the answer's length; the distance is
bounded by MAX_NODES × the truth's nodes (see tree_distance.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import unescape

from .text_normalization import collapse_whitespace
from .tree_distance import Row, tree_distance

MAX_SPAN = 1000
MAX_NODES = 4000
"""Maximum number of rows and cells of a true table; those of an answer beyond it count as wrong."""
_TAG = re.compile(r"<(/?)([a-zA-Z][^\s/<>]*+)([^<>]*+)>")
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_DECLARATION = re.compile(r"<[!?][^<>]*+>")
_SPANS = re.compile(r"""\s(colspan|rowspan)\s*=\s*("[^"]*"|'[^']*'|[^\s"'/]+)""", re.IGNORECASE)


@dataclass
class TableNode:
    """A table, row or cell with its text."""

    tag: str
    colspan: int = 1
    rowspan: int = 1
    text: str = ""
    children: list[TableNode] = field(default_factory=list)

    def walk(self) -> Iterator[TableNode]:
        """Yields the nodes below this one."""
        for child in self.children:
            yield child
            yield from child.walk()


class _TableParser:
    """Parses the first table of a text; cells and rows may be left open, tables in cells count as text.

    `html.parser` is not used: its time is quadratic in unclosed tags.
    """

    def __init__(self) -> None:
        self.table: TableNode | None = None
        self._cell: TableNode | None = None
        self._texts: list[str] = []
        self._depth = 0

    def feed(self, html: str) -> None:
        end = 0
        for tag in _TAG.finditer(html):
            self._data(unescape(html[end : tag.start()]))
            name, end = tag[2].lower(), tag.end()
            if tag[1]:
                self._end(name)
            else:
                self._start(name, tag[3])
            if self._depth < 0:  # the text after the first table is ignored
                break
        else:
            self._data(unescape(html[end:]))
        self._open(None)

    def _start(self, tag: str, attributes: str) -> None:
        if tag == "table":
            self._depth += 1
            self.table = self.table or TableNode("table")
        if self.table is None or self._depth != 1:
            return
        if tag == "tr":
            self.table.children.append(TableNode("tr"))
            self._open(None)
        elif tag in ("td", "th"):
            if not self.table.children:
                self.table.children.append(TableNode("tr"))
            spans = {name.lower(): value.strip("\"'") for name, value in _SPANS.findall(attributes)}
            self._open(TableNode("td", _span(spans.get("colspan")), _span(spans.get("rowspan"))))
        elif tag == "br":
            self._data(" ")

    def _end(self, tag: str) -> None:
        if tag == "table" and self._depth:
            self._depth -= 1
            if self._depth == 0:
                self._depth = -1
        if tag in ("td", "th", "tr") and self._depth == 1:
            self._open(None)

    def _open(self, cell: TableNode | None) -> None:
        """Completes the text of the current cell; the text that follows belongs to `cell`, or to no cell if None."""
        if self._cell is not None:
            self._cell.text = collapse_whitespace("".join(self._texts))
        if cell is not None and self.table is not None:
            self.table.children[-1].children.append(cell)
        self._cell, self._texts = cell, []

    def _data(self, data: str) -> None:
        if self._cell is not None:
            self._texts.append(data)


def _span(value: str | None) -> int:
    return min(int(value), MAX_SPAN) if value and re.fullmatch(r"[0-9]{1,6}", value) else 1


def parse_table(html: str) -> TableNode | None:
    """Returns the first table as a tree; None if there is none."""
    parser = _TableParser()
    parser.feed(_without_comments(html))
    return parser.table


def _without_comments(html: str) -> str:
    """Removes comments and declarations; searches only up to the last `-->`, so that every comment is closed."""
    end = html.rfind("-->") + len("-->") if "-->" in html else 0
    return _DECLARATION.sub("", _COMMENT.sub("", html[:end]) + html[end:])


def truth_problem(html: str) -> str:
    """Returns why a table cannot be a truth; empty if it can."""
    table = parse_table(html)
    if table is None:
        return "has no <table>"
    nodes = _nodes(table)
    return f"has {nodes:,} rows and cells, of at most {MAX_NODES:,}" if nodes > MAX_NODES else ""


def teds(answer: str, truth: str, contents: bool = True) -> float:
    """Returns the similarity in [0, 1] of two HTML tables; without `contents`, of their structure only (TEDS-S)."""
    given, wanted = parse_table(answer), parse_table(truth)
    if given is None or wanted is None:
        return float(given is wanted)
    if given == wanted:
        return 1.0
    nodes = max(map(_nodes, (given, wanted)))
    rows, beyond = _rows(given, contents)
    distance = tree_distance(rows, _rows(wanted, contents)[0]) + beyond
    return max(0.0, 1 - distance / max(nodes, 1))


def _nodes(table: TableNode) -> int:
    return sum(1 for _ in table.walk())


def _rows(table: TableNode, contents: bool) -> tuple[list[Row], int]:
    """Returns every cell's shape and text, row by row, up to MAX_NODES nodes, and the number of nodes beyond."""
    rows: list[Row] = []
    left = MAX_NODES
    for row in table.children:
        if left <= 0:
            break
        cells = row.children[: left - 1]
        rows.append([(cell.colspan * (MAX_SPAN + 1) + cell.rowspan, cell.text if contents else "") for cell in cells])
        left -= 1 + len(cells)
    return rows, _nodes(table) - (MAX_NODES - left)
