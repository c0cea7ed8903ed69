"""Simple pages: one to six lines of keys and values, the kind the reference checkpoint is trained to read.

Pages are 112 to 224 pixels wide, a multiple of 28 in both directions, in six DejaVu fonts of 14 to 19 pixels.
`level` -1 is a few random characters, 0 one free line, 1 up to three lines, 2 two to six lines.
"""

# ruff: noqa: SIM905 (word lists read better as one string)

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageDraw

from .draw import draw_span, load_font
from .page import Page, Span

FACTOR = 28
FONT_DIR = "/usr/share/fonts/truetype/dejavu"
FACES = ("DejaVuSans", "DejaVuSansMono", "DejaVuSerif", "DejaVuSansCondensed", "DejaVuSans-Bold", "DejaVuSerif-Bold")
FONTS = tuple(f"{FONT_DIR}/{face}.ttf" for face in FACES)
MONO = FONTS[1]

FIRST_NAMES = (
    "Anna Bob Carl Dina Emma Finn Gina Hugo Iris Jack Kate Liam Mona Nick Olga Paul Quinn Rosa Sam Tina Uma Vera "
    "Will Xena Yara Zoe"
).split()
LAST_NAMES = (
    "Adams Baker Clark Davis Evans Fox Gray Hill Irwin Jones King Lopez Moore Nash Owens Perez Quist Reed Stone "
    "Tran Usher Vance Wong Young Zhang"
).split()
ITEMS = (
    "Coffee Bread Milk Apples Paper Pens Lamp Cable Soap Rice Tea Sugar Glue Tape Nails Paint Books Chair Desk Phone"
).split()
CITIES = "Oslo Paris Rome Cairo Lima Delhi Tokyo Quito Bern Kyiv Riga Accra Perth Miami Turin".split()
MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
CODE_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ0123456789"

Rng = random.Random
Lines = list[list[str]]


def money(rng: Rng) -> str:
    if rng.random() < 0.7:
        return f"{rng.randint(0, 9999)}.{rng.randint(0, 99):02d}"
    return f"${rng.randint(1, 999)}.{rng.randint(0, 99):02d}"


def date(rng: Rng) -> str:
    year, month, day = rng.randint(10, 29), rng.randint(1, 12), rng.randint(1, 28)
    return rng.choice(
        [f"20{year}-{month:02d}-{day:02d}", f"{day} {MONTHS[month - 1]} 20{year}", f"{month:02d}/{day:02d}/{year}"]
    )


def code(rng: Rng) -> str:
    return "".join(rng.choice(CODE_LETTERS) for _ in range(rng.randint(3, 6)))


def scramble(rng: Rng) -> str:
    return "".join(rng.choice(LETTERS) for _ in range(rng.randint(2, 7)))


def person(rng: Rng) -> str:
    return f"{rng.choice(FIRST_NAMES)} {rng.choice(LAST_NAMES)}"


FIELDS: dict[str, Callable[[Rng], str]] = {
    "Invoice": lambda rng: f"{code(rng)}-{rng.randint(0, 9999):04d}",
    "Date": date,
    "Name": person,
    "Total": money,
    "Tax": money,
    "Due": date,
    "Item": lambda rng: f"{rng.choice(ITEMS)} x{rng.randint(1, 99)}",
    "Phone": lambda rng: f"{rng.randint(200, 999)}-{rng.randint(1000, 9999)}",
    "City": lambda rng: rng.choice(CITIES),
    "Ref": code,
    "Qty": lambda rng: str(rng.randint(1, 9999)),
    "Room": lambda rng: f"{rng.choice('ABCDEF')}{rng.randint(1, 499)}",
    "Price": money,
    "Order": lambda rng: str(rng.randint(10000, 999999)),
    "Note": scramble,
}


def free_line(rng: Rng) -> str:
    draw = rng.random()
    if draw < 0.35:
        return " ".join(scramble(rng) for _ in range(rng.randint(1, 2)))
    if draw < 0.6:
        return person(rng)
    return money(rng) if draw < 0.8 else date(rng)


def key_value_lines(rng: Rng, count: int) -> Lines:
    """`count` lines with distinct keys; about one in seven is a free line without a key."""
    return [
        [free_line(rng)] if rng.random() < 0.15 else [f"{key}:", FIELDS[key](rng)]
        for key in rng.sample(list(FIELDS), count)
    ]


def fits(lines: Lines, width: int, size: int) -> bool:
    """Whether every line fits into `width` even in the widest (monospaced) face."""
    font = load_font(MONO, size)
    return all(sum(font.getlength(part) + 10 for part in line) + 8 <= width for line in lines)


def draw_page(rng: Rng, width: int, height: int, lines: Lines, size: int) -> Page:
    light, dark = rng.randint(225, 255), rng.randint(0, 70)
    image = Image.new("RGB", (width, height), (light, light, rng.randint(max(200, light - 20), light)))
    draw = ImageDraw.Draw(image)
    font = load_font(rng.choice(FONTS[:4] if rng.random() < 0.8 else FONTS), size)
    pitch = max(size + 3, min(height // len(lines), size + 12))
    y = rng.randint(1, max(1, height - pitch * len(lines)))
    rows: list[tuple[Span, ...]] = []
    for line in lines:
        x, row = rng.randint(2, 8), []
        for part in line:
            span = draw_span(draw, (x, y), part, font, (dark, dark, dark))
            row.append(span)
            x = span.box[2] + 4 + rng.randint(0, 6)
        rows.append(tuple(row))
        y += pitch
    if rng.random() < 0.3:
        draw.line((2, height - 3, width - 3, height - 3), fill=(dark + 60,) * 3)
    fields = {row[0].text.rstrip(":"): row[1] for row in rows if len(row) == 2}
    return Page(image, "simple", "en", tuple(rows), fields)


@dataclass(frozen=True)
class _Layout:
    width: int
    height: int
    size: int
    make: Callable[[Rng], Lines]


def _layout(rng: Rng, level: int) -> _Layout:
    if level == -1:
        text = lambda rng: [["".join(rng.choice(LETTERS + ".-/:$") for _ in range(rng.randint(1, 5)))]]  # noqa: E731
        return _Layout(FACTOR * rng.randint(2, 3), FACTOR, rng.randint(15, 19), text)
    if level == 0:
        return _Layout(FACTOR * rng.randint(4, 8), FACTOR, rng.randint(15, 19), lambda rng: [[free_line(rng)]])
    count = rng.randint(1, 3) if level == 1 else rng.randint(2, 6)
    size, width = rng.randint(14, 18), FACTOR * rng.choice((6, 7, 8))
    height = FACTOR * (max(1, -(-(count * (size + 4) + 4) // FACTOR) + rng.randint(0, 1)))
    return _Layout(width, height, size, lambda rng: key_value_lines(rng, count))


def simple_page(rng: Rng, level: int = 2) -> Page:
    """A page of `level`; its lines are drawn again until they fit the width."""
    layout = _layout(rng, level)
    while not fits(lines := layout.make(rng), layout.width, layout.size):
        pass
    return draw_page(rng, layout.width, layout.height, lines, layout.size)
