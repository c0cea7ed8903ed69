"""Till receipts, narrow and monospaced: bought things, sums that are right, how it was paid."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from . import words
from .page import Page
from .sheet import INK, Pen, Sheet

CHOICES = {
    "en": ("dejavu-mono", "liberation-mono", "courier-prime"),
    "zh": ("noto-sans-sc", "wqy-microhei"),
}
FONTS = (*CHOICES["en"], *CHOICES["zh"])
KEYS = {
    "en": ("Receipt", "Date", "Cashier", "Subtotal", "Tax", "Total", "Cash", "Change"),
    "zh": ("单号", "日期", "收银员", "小计", "税额", "合计", "现金", "找零"),
}
HEADS = {"en": ("Item", "Qty", "Amount"), "zh": ("品名", "数量", "金额")}
THANKS = {
    "en": ("Thank you!", "Please come again", "Have a nice day"),
    "zh": ("谢谢惠顾", "欢迎再次光临", "请保留小票"),
}
MARGIN = 16


@dataclass(frozen=True)
class Bought:
    name: str
    count: int
    cents: int


def bought(rng: Random, language: str) -> list[Bought]:
    goods = rng.sample(words.GOODS[language], rng.randint(2, 7))
    return [Bought(name, rng.choice((1, 1, 1, 2, 3, 4)), rng.randint(low, high)) for name, low, high in goods]


def payment(rng: Random, items: list[Bought], rate: int) -> list[int]:
    """Subtotal, tax at `rate` percent, total, cash given and change, in hundredths."""
    subtotal = sum(item.count * item.cents for item in items)
    tax = (subtotal * rate + 50) // 100
    cash = -(-(subtotal + tax) // 500) * 500 + rng.choice((0, 0, 500, 1000))
    return [subtotal, tax, subtotal + tax, cash, cash - subtotal - tax]


def receipt_page(rng: Random) -> Page:
    language = rng.choice(("en", "zh"))
    width = rng.randint(330, 400)
    pen = Pen(rng.choice(CHOICES[language]), rng.randint(15, 17), rng.choice((INK, (60, 60, 80))))
    tone = rng.randint(240, 255)
    sheet = Sheet(width, 900, "receipt", language, (tone, tone, tone - rng.randint(0, 6)))
    y = _head(sheet, rng, pen)
    items = bought(rng, language)
    y = _items(sheet, items, pen, _dashes(sheet, y))
    y = _sums(sheet, rng, items, pen, _dashes(sheet, y))
    sheet.put(width // 2, y + 8, rng.choice(THANKS[language]), pen, "middle")
    return sheet.page(y + 8 + pen.pitch + rng.randint(8, 30))


def _dashes(sheet: Sheet, y: int) -> int:
    for x in range(MARGIN, sheet.image.width - MARGIN - 4, 8):
        sheet.rule(x, y + 4, x + 4, INK)
    return y + 12


def _head(sheet: Sheet, rng: Random, pen: Pen) -> int:
    language, middle, y = sheet.language, sheet.image.width // 2, rng.randint(12, 24)
    sheet.put(middle, y, rng.choice(words.SHOPS[language]), Pen(pen.font, pen.size + 4, pen.ink), "middle")
    y += pen.pitch + 8
    for text in (words.address(rng, language), words.phone(rng, language)):
        sheet.put(middle, y, text, pen, "middle")
        y += pen.pitch
    style = rng.randint(0, 1)
    values = (words.digits(rng, 8), words.written(words.day(rng), language, style), words.person(rng, language))
    for key, value in zip(KEYS[language], values, strict=False):
        sheet.pair(MARGIN, y, key, value, pen)
        y += pen.pitch
    return y


def _items(sheet: Sheet, items: list[Bought], pen: Pen, y: int) -> int:
    """Name, count and amount in three columns."""
    rows = [(item.name, str(item.count), words.amount(item.count * item.cents)) for item in items]
    right = sheet.image.width - MARGIN
    for name, count, amount in (HEADS[sheet.language], *rows):
        sheet.line(
            sheet.write(MARGIN, y, name, pen),
            sheet.write(right - 5 * pen.size, y, count, pen, "right"),
            sheet.write(right, y, amount, pen, "right"),
        )
        y += pen.pitch
    return y


def _sums(sheet: Sheet, rng: Random, items: list[Bought], pen: Pen, y: int) -> int:
    values = payment(rng, items, rng.choice((5, 7, 8, 10, 20)))
    sign = {"en": rng.choice(("", "$")), "zh": rng.choice(("", "¥"))}[sheet.language]
    for key, value in zip(KEYS[sheet.language][3:], values, strict=True):
        sheet.pair(MARGIN, y, key, sign + words.amount(value), pen, right=sheet.image.width - MARGIN)
        y += pen.pitch
    return y
