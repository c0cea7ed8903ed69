"""Tables: columns measured from their cells, drawn with one of three rulings, and written as HTML for TEDS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from .page import Span
from .sheet import GREY, INK, Pen, Sheet

RULINGS = ("grid", "rows", "striped")
MIDDLE = 0.58
"""Height of the middle of a capital below the top of its line, in font sizes."""


@dataclass(frozen=True)
class Cell:
    """A text over `columns` columns and `rows` rows."""

    text: str
    columns: int = 1
    rows: int = 1


@dataclass(frozen=True)
class Look:
    """How a table is drawn: the pens of heads and bodies, the ruling, the padding left and right of a text."""

    head: Pen
    body: Pen
    ruling: str = "grid"
    pad: int = 8
    row_height: int = 30
    align: str = ""
    """One letter a column: l, m or r; columns beyond it are left-aligned."""


Row = Sequence[Cell]


def html(rows: Sequence[Row]) -> str:
    """`<table><tr><td colspan="2">…</td>…</tr>…</table>` without white space between tags."""
    return "<table>" + "".join("<tr>" + "".join(map(_cell_html, row)) + "</tr>" for row in rows) + "</table>"


def _cell_html(cell: Cell) -> str:
    spans = f' colspan="{cell.columns}"' * (cell.columns > 1) + f' rowspan="{cell.rows}"' * (cell.rows > 1)
    return f"<td{spans}>{escape(cell.text, quote=False)}</td>"


def place(rows: Sequence[Row]) -> list[tuple[int, int, Cell]]:
    """Row and column of every cell's top left corner; rows after a rowspan skip the columns it covers."""
    taken: set[tuple[int, int]] = set()
    placed = []
    for r, row in enumerate(rows):
        c = 0
        for cell in row:
            while (r, c) in taken:
                c += 1
            placed.append((r, c, cell))
            taken |= {(r + i, c + j) for i in range(cell.rows) for j in range(cell.columns)}
            c += cell.columns
    return placed


def column_widths(rows: Sequence[Row], look: Look) -> list[int]:
    """The widest text of one column each, padded."""
    placed = place(rows)
    widths = [0] * max(c + cell.columns for _, c, cell in placed)
    for _, c, cell in sorted(placed, key=lambda item: item[2].columns):
        need = max(look.head.width(cell.text), look.body.width(cell.text)) + 2 * look.pad
        short = need - sum(widths[c : c + cell.columns])
        widths[c + cell.columns - 1] += max(0, short)
    return widths


def stretch(widths: Sequence[int], total: int) -> list[int]:
    """Columns spread to `total` pixels; the first takes what rounding leaves."""
    if (spare := total - sum(widths)) < 0:
        raise ValueError(f"a table of {sum(widths)} pixels does not fit into {total}")
    return [width + spare // len(widths) + (spare % len(widths) if i == 0 else 0) for i, width in enumerate(widths)]


def draw_table(sheet: Sheet, x: int, y: int, rows: Sequence[Row], look: Look, widths: Sequence[int], heads: int) -> int:
    """Draw `rows`, of which the first `heads` are headers; records lines and HTML; returns the bottom edge."""
    edges = [x + sum(widths[:i]) for i in range(len(widths) + 1)]
    bottom = y + len(rows) * look.row_height
    if look.ruling == "striped":
        _stripes(sheet, edges, y, len(rows), look, heads)
    lines: list[list[Span]] = [[] for _ in rows]
    for r, c, cell in place(rows):
        box = (edges[c], y + r * look.row_height, edges[c + cell.columns], y + (r + cell.rows) * look.row_height)
        if look.ruling == "grid":
            sheet.draw.rectangle(box, outline=INK)
        if cell.text:
            lines[r].append(_write(sheet, box, cell, look, r < heads, look.align[c : c + 1]))
    if look.ruling == "rows":
        for edge, width in ((y, 2), (y + heads * look.row_height, 1), (bottom, 2)):
            sheet.rule(edges[0], edge, edges[-1], INK, width)
    for line in lines:
        sheet.line(*line)
    sheet.tables.append(html(rows))
    return bottom


def _write(sheet: Sheet, box: tuple[int, int, int, int], cell: Cell, look: Look, head: bool, align: str) -> Span:
    pen = look.head if head else look.body
    top = (box[1] + box[3]) // 2 - round(MIDDLE * pen.size)
    if align == "m" or cell.columns > 1:
        return sheet.write((box[0] + box[2]) // 2, top, cell.text, pen, "middle")
    if align == "r":
        return sheet.write(box[2] - look.pad, top, cell.text, pen, "right")
    return sheet.write(box[0] + look.pad, top, cell.text, pen)


def _stripes(sheet: Sheet, edges: Sequence[int], y: int, count: int, look: Look, heads: int) -> None:
    for r in range(count):
        fill = (214, 222, 236) if r < heads else (243, 243, 246) if (r - heads) % 2 else None
        if fill:
            top = y + r * look.row_height
            sheet.draw.rectangle((edges[0], top, edges[-1], top + look.row_height - 1), fill=fill)
    sheet.rule(edges[0], y + count * look.row_height, edges[-1], GREY)
