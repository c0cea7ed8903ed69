"""Pages with one table under a title: plain, with a head over two columns, or with a group over several rows."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from . import words
from .grid import RULINGS, Cell, Look, column_widths, draw_table, stretch
from .page import Page
from .sheet import Pen, Sheet

CHOICES = {
    "en": (("liberation-sans", "liberation-sans-bold"), ("dejavu-sans", "dejavu-sans-bold"),
           ("liberation-serif", "liberation-serif-bold")),
    "zh": (("noto-sans-sc", "noto-sans-sc-bold"), ("noto-serif-sc", "noto-serif-sc-bold")),
}  # fmt: skip
FONTS = tuple(key for pairs in CHOICES.values() for pair in pairs for key in pair)
GROUPS = {"en": ("Red", "Blue", "Green", "Amber"), "zh": ("一部", "二部", "三部", "四部")}
QUARTERS = {"en": ("Q1", "Q2", "Q3", "Q4"), "zh": ("一季度", "二季度", "三季度", "四季度")}
HALVES = {"en": ("First half", "Second half"), "zh": ("上半年", "下半年")}
HEADS = {"en": ("City", "Team", "Total"), "zh": ("城市", "部门", "合计")}
SUBJECTS = {"en": ("Maths", "Physics", "History", "Art"), "zh": ("语文", "数学", "英语", "物理")}
NAME = {"en": "Name", "zh": "姓名"}
TITLES = {
    "en": (("Sales by quarter", "Units shipped", "Visitors"), ("Class results", "Test scores")),
    "zh": (("各季度销售额", "出货数量", "游客人次"), ("期末成绩表", "考试成绩")),
}
"""Titles of sums, titles of marks."""
Rows = list[list[Cell]]
MARGIN = 32


def table_page(rng: Random) -> Page:
    language = rng.choice(("en", "zh"))
    make = rng.choice(MAKERS)
    rows, heads = make(rng, language)
    regular, bold = rng.choice(CHOICES[language])
    pen = Pen(regular, rng.randint(15, 18))
    columns = sum(cell.columns for cell in rows[0])
    ruling = "grid" if any(cell.rows > 1 for row in rows for cell in row) else rng.choice(RULINGS)
    align = "l" + rng.choice("mr") * (columns - 1) if make is not _teams else "ll" + "r" * (columns - 2)
    look = Look(Pen(bold, pen.size), pen, ruling, rng.randint(8, 14), pen.pitch + rng.randint(4, 14), align)
    return _draw(rng, rows, look, heads, rng.choice(TITLES[language][make is _marks]), language)


def _draw(rng: Random, rows: Rows, look: Look, heads: int, title: str, language: str) -> Page:
    """The page is as wide as its table, a little spread, needs."""
    widths = column_widths(rows, look)
    widths = stretch(widths, round(sum(widths) * rng.uniform(1.0, 1.3)))
    big = Pen(look.head.font, look.head.size + 5)
    width = max(sum(widths), big.width(title)) + 2 * MARGIN
    sheet = Sheet(width, 900, "table", language)
    sheet.put(width // 2, 24, title, big, "middle")
    bottom = draw_table(sheet, (width - sum(widths)) // 2, 24 + big.pitch + 12, rows, look, widths, heads)
    return sheet.page(bottom + rng.randint(24, 40))


def _numbers(rng: Random, count: int) -> list[int]:
    top = rng.choice((99, 999, 9999))
    return [rng.randint(1, top) for _ in range(count)]


def _cells(*texts: str | int) -> list[Cell]:
    return [Cell(f"{text:,}" if isinstance(text, int) else text) for text in texts]


def _quarters(rng: Random, language: str) -> tuple[Rows, int]:
    """Cities by quarters; the last row is the sum of the rows above."""
    numbers = [_numbers(rng, 4) for _ in range(rng.randint(3, 6))]
    towns = rng.sample(words.TOWNS[language], len(numbers))
    city, _, total = HEADS[language]
    sums = [sum(column) for column in zip(*numbers, strict=True)]
    body = [_cells(town, *row) for town, row in zip(towns, numbers, strict=True)]
    return [_cells(city, *QUARTERS[language]), *body, _cells(total, *sums)], 1


def _halves(rng: Random, language: str) -> tuple[Rows, int]:
    """Two header rows: halves of the year over quarters, the city beside both."""
    towns = rng.sample(words.TOWNS[language], rng.randint(3, 6))
    top = [Cell(HEADS[language][0], rows=2), *(Cell(text, columns=2) for text in HALVES[language])]
    return [top, _cells(*QUARTERS[language]), *(_cells(town, *_numbers(rng, 4)) for town in towns)], 2


def _teams(rng: Random, language: str) -> tuple[Rows, int]:
    """A team beside its two or three cities; every row ends with its sum."""
    city, team, total = HEADS[language]
    rows: Rows = [_cells(team, city, *QUARTERS[language][:2], total)]
    towns = iter(rng.sample(words.TOWNS[language], 9))
    for group in rng.sample(GROUPS[language], rng.randint(2, 3)):
        size = rng.randint(2, 3)
        for i in range(size):
            numbers = _numbers(rng, 2)
            first = [Cell(group, rows=size)] if i == 0 else []
            rows.append([*first, *_cells(next(towns), *numbers, sum(numbers))])
    return rows, 1


def _marks(rng: Random, language: str) -> tuple[Rows, int]:
    """Pupils by subjects; now and then a cell is empty."""
    pupils = list(dict.fromkeys(words.person(rng, language) for _ in range(rng.randint(4, 8))))
    body = [_cells(name, *("" if rng.random() < 0.06 else rng.randint(35, 100) for _ in range(4))) for name in pupils]
    return [_cells(NAME[language], *SUBJECTS[language]), *body], 1


MAKERS: tuple[Callable[[Random, str], tuple[Rows, int]], ...] = (_quarters, _halves, _teams, _marks)
