"""Chinese written downwards, columns from right to left: a Tang poem, its title and its poet.

A line of truth is a column. Drawn with Pillow's raqm layout (`direction="ttb"`, feature `vert`).
"""

from __future__ import annotations

from random import Random

from . import fonts
from .page import Page, Span
from .poems import POEMS, Poem
from .sheet import INK, Pen, Sheet

FONTS = ("ukai", "noto-serif-sc", "noto-sans-sc", "wenkai")
PAPERS = ((255, 255, 255), (250, 246, 232), (244, 238, 220))


def vertical_page(rng: Random) -> Page:
    poem = rng.choice(POEMS)
    columns = columns_of(poem, by_verse=rng.random() < 0.5)
    pen = Pen(fonts.pick(rng, FONTS, "".join(columns)), rng.randint(24, 34), rng.choice((INK, (60, 40, 20))))
    gap, margin = round(pen.size * rng.uniform(1.5, 1.9)), rng.randint(24, 44)
    longest = max(len(column) for column in columns)
    size = (2 * margin + gap * (len(columns) - 1) + pen.size, 2 * margin + longest * pen.size + pen.size)
    sheet = Sheet(*size, "vertical", "zh", rng.choice(PAPERS))
    ruled = rng.random() < 0.4
    for i, column in enumerate(columns):
        x = sheet.image.width - margin - pen.size - i * gap
        y = margin + (pen.size if i == 1 else 0)
        sheet.line(write_down(sheet, x, y, column, pen))
        if ruled and i:
            edge = x + pen.size + (gap - pen.size) // 2
            sheet.draw.line((edge, margin - 8, edge, size[1] - margin + 8), fill=(190, 120, 100))
    sheet.field("标题", sheet.lines[0][0])
    sheet.field("作者", sheet.lines[1][0])
    return sheet.page()


def columns_of(poem: Poem, by_verse: bool) -> list[str]:
    """Title, poet, then a column a couplet or, where `by_verse`, a column a verse."""
    couplets = list(poem.couplets)
    if by_verse:
        half = len(couplets[0]) // 2
        couplets = [verse for couplet in couplets for verse in (couplet[:half], couplet[half:])]
    return [poem.title, poem.poet, *couplets]


def write_down(sheet: Sheet, x: int, y: int, text: str, pen: Pen) -> Span:
    """Write `text` downwards from the top `y`, its cells beginning at `x`; one cell a character."""
    fonts.require(pen.font, text)
    font = fonts.load(pen.font, pen.size)
    sheet.draw.text((x, y), text, font=font, fill=pen.ink, direction="ttb", features=["vert"])
    box = sheet.draw.textbbox((x, y), text, font=font, direction="ttb", features=["vert"])
    left, top, right, bottom = (round(edge) for edge in box)
    ends = [y + font.getlength(text[: i + 1], direction="ttb", features=["vert"]) for i in range(len(text))]
    starts = [float(y), *ends[:-1]]
    centers = tuple(((left + right) / 2, (start + end) / 2) for start, end in zip(starts, ends, strict=True))
    return Span(text, (left, top, right, bottom), centers)
