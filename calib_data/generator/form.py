"""Filled forms: labels and values in boxes two to a row, choices as ticked squares, values printed or by hand."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from . import fonts, words
from .page import Box, Page, Span
from .sheet import GREY, INK, Pen, Sheet

PRINT = {
    "en": ("liberation-sans", "dejavu-sans", "liberation-serif"),
    "zh": ("noto-sans-sc", "noto-serif-sc", "wqy-microhei"),
}
HAND = {"en": ("dkg", "klee"), "zh": ("wenkai", "ukai")}
FONTS = tuple(key for choices in (PRINT, HAND) for keys in choices.values() for key in keys)
TITLES = {
    "en": ("Registration Form", "Application for Membership", "Patient Record", "Visitor Form"),
    "zh": ("登记表", "会员申请表", "个人信息表", "访客登记单"),
}
Make = Callable[[Random], str]
BLANKS: dict[str, dict[str, Make]] = {
    "en": {
        "Full name": lambda rng: words.person(rng, "en"),
        "Date of birth": lambda rng: words.written(words.day(rng, 1950, 2005), "en", 0),
        "Address": lambda rng: words.address(rng, "en"),
        "Phone": lambda rng: words.phone(rng, "en"),
        "Employer": lambda rng: rng.choice(words.COMPANIES["en"]),
        "Member ID": lambda rng: f"{rng.choice('ABCDEFGH')}{words.digits(rng, 6)}",
        "Postcode": lambda rng: words.digits(rng, 5),
        "Room": lambda rng: str(rng.randint(101, 940)),
        "Height (cm)": lambda rng: str(rng.randint(150, 199)),
        "Emergency contact": lambda rng: words.person(rng, "en"),
    },
    "zh": {
        "姓名": lambda rng: words.person(rng, "zh"),
        "出生日期": lambda rng: words.written(words.day(rng, 1950, 2005), "zh", 1),
        "住址": lambda rng: words.address(rng, "zh"),
        "联系电话": lambda rng: words.phone(rng, "zh"),
        "工作单位": lambda rng: rng.choice(words.COMPANIES["zh"]),
        "编号": lambda rng: f"{rng.choice('ABCDEFGH')}{words.digits(rng, 6)}",
        "邮政编码": lambda rng: words.digits(rng, 6),
        "身高": lambda rng: f"{rng.randint(150, 199)}厘米",
        "紧急联系人": lambda rng: words.person(rng, "zh"),
        "房间号": lambda rng: str(rng.randint(101, 940)),
    },
}
TICKS = {
    "en": {"Sex": ("Female", "Male"), "Payment": ("Cash", "Card", "Transfer"), "Member": ("Yes", "No")},
    "zh": {"性别": ("男", "女"), "付款方式": ("现金", "刷卡", "转账"), "是否会员": ("是", "否")},
}
MARGIN, ROW = 36, 58


def form_page(rng: Random) -> Page:
    language = rng.choice(("en", "zh"))
    label = Pen(rng.choice(PRINT[language]), 14, (70, 70, 80))
    keys = rng.sample(list(BLANKS[language]), rng.randint(4, 8))
    ticks = rng.sample(list(TICKS[language]), rng.randint(1, 2))
    texts = {key: BLANKS[language][key](rng) for key in keys}
    hand = fonts.pick(rng, (*HAND[language], label.font), "".join(texts.values()))
    value = Pen(hand, rng.randint(19, 21), rng.choice((INK, (25, 45, 140))))
    sheet = Sheet(rng.randint(640, 700), 900, "form", language)
    y = _title(sheet, rng, label)
    for cells in _rows(texts, value, sheet.image.width - 2 * MARGIN):
        y = _blanks(sheet, cells, label, value, y)
    for key in ticks:
        y = _ticks(sheet, rng, key, label, y)
    return sheet.page(y + rng.randint(24, 48))


def _title(sheet: Sheet, rng: Random, label: Pen) -> int:
    pen = Pen(label.font, rng.randint(24, 28))
    sheet.put(sheet.image.width // 2, 28, rng.choice(TITLES[sheet.language]), pen, "middle")
    return 28 + pen.pitch + 16


def _rows(texts: dict[str, str], value: Pen, width: int) -> list[list[tuple[str, str]]]:
    """Two short values share a row; one wider than half the page has a row for itself."""
    rows: list[list[tuple[str, str]]] = []
    for item in texts.items():
        short = value.width(item[1]) + 20 < width // 2
        if short and rows and len(rows[-1]) == 1 and value.width(rows[-1][0][1]) + 20 < width // 2:
            rows[-1].append(item)
        else:
            rows.append([item])
    return rows


def _blanks(sheet: Sheet, cells: list[tuple[str, str]], label: Pen, value: Pen, y: int) -> int:
    """A row of boxes, each with its label on top: read as the labels, then the values."""
    total = sheet.image.width - 2 * MARGIN
    heads, values = [], []
    for i, (key, text) in enumerate(cells):
        x, right = (MARGIN + total * edge // len(cells) for edge in (i, i + 1))
        sheet.draw.rectangle((x, y, right, y + ROW), outline=GREY)
        heads.append(sheet.write(x + 8, y + 4, key, label))
        values.append(sheet.write(x + 10, y + 26, text, value))
        sheet.field(key, values[-1])
    sheet.line(*heads)
    sheet.line(*values)
    return y + ROW


def _ticks(sheet: Sheet, rng: Random, key: str, label: Pen, y: int) -> int:
    """A label and its choices; the field is the ticked one."""
    options, pen = TICKS[sheet.language][key], Pen(label.font, 16)
    chosen, x, spans = rng.choice(options), MARGIN + 160, [sheet.write(MARGIN + 8, y + 16, key, pen)]
    for option in options:
        _square(sheet, (x, y + 18, x + 15, y + 33), option == chosen)
        spans.append(sheet.write(x + 24, y + 16, option, pen))
        x += pen.width(option) + 60
    sheet.line(*spans)
    sheet.field(key, _named(spans, chosen))
    return y + 40


def _square(sheet: Sheet, box: Box, ticked: bool) -> None:
    sheet.draw.rectangle(box, outline=INK)
    if ticked:
        left, top, right, bottom = box
        middle = (left + 6, bottom - 3)
        sheet.draw.line(((left + 2, top + 7), middle, (right + 3, top - 4)), fill=(20, 40, 150), width=3)


def _named(spans: list[Span], text: str) -> Span:
    return next(span for span in spans if span.text == text)
