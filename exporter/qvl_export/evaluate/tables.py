"""TEDS of HTML tables (Zhong, ShafieiBavani, Jimeno Yepes 2020): 1 − tree edit distance / nodes of the larger tree.

Rows and cells are the nodes. Header cells count as cells and `thead`, `tbody`, `tfoot` are looked through, as
OmniDocBench does it: they are a matter of taste, not of reading.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

from apted import APTED, Config
from rapidfuzz.distance import Levenshtein

from .texts import squeeze

MAX_SPAN = 1000


@dataclass
class Node:
    """A table, row or cell with its text."""

    tag: str
    colspan: int = 1
    rowspan: int = 1
    text: str = ""
    children: list[Node] = field(default_factory=list)

    def walk(self) -> Iterator[Node]:
        """The nodes below this one."""
        for child in self.children:
            yield child
            yield from child.walk()


class _Tables(HTMLParser):
    """The first table of a text; cells and rows may be left open, tables in cells count as text."""

    def __init__(self) -> None:
        super().__init__()
        self.table: Node | None = None
        self._cell: Node | None = None
        self._depth = 0

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self._depth += 1
            self.table = self.table or Node("table")
        if self.table is None or self._depth != 1:
            return
        if tag == "tr":
            self.table.children.append(Node("tr"))
            self._cell = None
        elif tag in ("td", "th"):
            if not self.table.children:
                self.table.children.append(Node("tr"))
            spans = dict(attributes)
            self._cell = Node("td", _span(spans.get("colspan")), _span(spans.get("rowspan")))
            self.table.children[-1].children.append(self._cell)
        elif tag == "br":
            self.handle_data(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag == "table" and self._depth:
            self._depth -= 1
            if self._depth == 0:
                self._depth, self._cell = -1, None  # what follows the first table is not looked at
        if tag in ("td", "th", "tr") and self._depth == 1:
            self._cell = None

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell.text += data


def _span(value: str | None) -> int:
    return min(int(value), MAX_SPAN) if value and re.fullmatch(r"\d{1,6}", value) else 1


def parse_table(html: str) -> Node | None:
    """The first table as a tree; None where there is none."""
    parser = _Tables()
    with contextlib.suppress(AssertionError):  # how Python 3.11 gives up on `<![x[`: what came before it counts
        parser.feed(html)
        parser.close()
    for node in parser.table.walk() if parser.table else ():
        node.text = squeeze(node.text)
    return parser.table


class _Costs(Config):  # type: ignore[misc]
    """1 to insert, delete or change shape; for the text of a cell its normalised Levenshtein distance."""

    def __init__(self, contents: bool) -> None:
        self._contents = contents

    def rename(self, a: Node, b: Node) -> float:
        if (a.tag, a.colspan, a.rowspan) != (b.tag, b.colspan, b.rowspan):
            return 1.0
        return Levenshtein.normalized_distance(a.text, b.text) if self._contents and a.tag == "td" else 0.0

    def children(self, node: Node) -> list[Node]:
        return node.children


def teds(answer: str, truth: str, contents: bool = True) -> float:
    """Similarity in [0, 1] of two HTML tables; of structure alone (TEDS-S) without `contents`."""
    given, wanted = parse_table(answer), parse_table(truth)
    if given is None or wanted is None:
        return float(given is wanted)
    if given == wanted:
        return 1.0
    nodes = max(sum(1 for _ in tree.walk()) for tree in (given, wanted))
    distance = APTED(given, wanted, _Costs(contents)).compute_edit_distance()
    return max(0.0, 1 - float(distance) / max(nodes, 1))
