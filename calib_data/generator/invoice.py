"""Invoices of one page: who bills whom, a table of things, sums that are right; in Chinese with capital numerals."""

from __future__ import annotations

from datetime import timedelta
from random import Random

from . import words
from .grid import RULINGS, Cell, Look, column_widths, draw_table, stretch
from .page import Page
from .sheet import INK, Pen, Sheet

CHOICES = {
    "en": (("liberation-sans", "liberation-sans-bold"), ("liberation-serif", "liberation-serif-bold"),
           ("dejavu-sans", "dejavu-sans-bold")),
    "zh": (("noto-sans-sc", "noto-sans-sc-bold"), ("noto-serif-sc", "noto-serif-sc-bold")),
}  # fmt: skip
FONTS = tuple(key for pairs in CHOICES.values() for pair in pairs for key in pair)
TITLES = {"en": ("INVOICE", "Tax Invoice", "Sales Invoice"), "zh": ("销售发票", "增值税普通发票", "收费单据")}
META = {
    "en": ("Invoice No", "Date", "Due date", "Bill to", "Tax ID"),
    "zh": ("发票号码", "开票日期", "付款期限", "购买方", "税号"),
}
COLUMNS = {"en": ("Description", "Qty", "Unit price", "Amount"), "zh": ("项目名称", "数量", "单价", "金额")}
SUMS = {"en": ("Subtotal", "Tax", "Total"), "zh": ("合计", "税额", "价税合计")}
CAPITALS = "大写金额"
NOTES = {
    "en": ("Payment within 30 days, please.", "Thank you for your business.", "Bank transfer only."),
    "zh": ("请于三十日内付款。", "感谢您的惠顾。", "仅限银行转账。"),
}
MARGIN = 40


def invoice_page(rng: Random) -> Page:
    language = rng.choice(("en", "zh"))
    regular, bold = rng.choice(CHOICES[language])
    pen = Pen(regular, rng.randint(15, 17))
    strong = Pen(bold, pen.size)
    sheet = Sheet(rng.randint(640, 720), 1000, "invoice", language)
    y = _head(sheet, rng, pen, bold)
    y = _meta(sheet, rng, pen, y)
    cents, y = _items(sheet, rng, pen, strong, y)
    y = _sums(sheet, rng, cents, pen, strong, y)
    sheet.put(MARGIN, y + 10, rng.choice(NOTES[language]), pen)
    return sheet.page(y + pen.pitch + rng.randint(24, 60))


def _head(sheet: Sheet, rng: Random, pen: Pen, bold: str) -> int:
    """The seller on the left and the title below, or in the middle."""
    language, y = sheet.language, rng.randint(24, 40)
    color = rng.choice((INK, (20, 60, 130), (130, 30, 30), (20, 90, 60)))
    sheet.put(MARGIN, y, rng.choice(words.COMPANIES[language]), Pen(bold, pen.size + 4, color))
    y += pen.pitch + 8
    for text in (words.address(rng, language), words.phone(rng, language)):
        sheet.put(MARGIN, y, text, pen)
        y += pen.pitch
    at, align = rng.choice(((MARGIN, "left"), (sheet.image.width // 2, "middle")))
    sheet.put(at, y + 8, rng.choice(TITLES[language]), Pen(bold, pen.size + 10, color), align)
    y += 2 * pen.pitch + 16
    sheet.rule(MARGIN, y - 8, sheet.image.width - MARGIN, color, 2)
    return y


def _meta(sheet: Sheet, rng: Random, pen: Pen, y: int) -> int:
    language, style = sheet.language, rng.randint(0, 1)
    number = rng.choice(("INV-", "", "R", "No-")) + words.digits(rng, rng.randint(5, 8))
    issued = words.day(rng)
    dates = [words.written(day, language, style) for day in (issued, issued + timedelta(days=rng.choice((14, 30, 60))))]
    values = (number, *dates, rng.choice(words.COMPANIES[language]), words.digits(rng, 12))
    for key, value in zip(META[language], values, strict=True):
        sheet.pair(MARGIN, y, key, value, pen)
        y += pen.pitch
    return y + 12


def _items(sheet: Sheet, rng: Random, pen: Pen, strong: Pen, y: int) -> tuple[int, int]:
    """The sum of the amounts in hundredths, and the bottom edge of the table."""
    rows, total = [[Cell(text) for text in COLUMNS[sheet.language]]], 0
    for name, low, high in rng.sample(words.SERVICES[sheet.language], rng.randint(2, 6)):
        count, price = rng.randint(1, 12), rng.randint(low, high)
        total += count * price
        rows.append([Cell(text) for text in (name, str(count), words.amount(price), words.amount(count * price))])
    look = Look(strong, pen, rng.choice(RULINGS), row_height=pen.pitch + rng.randint(6, 12), align="lrrr")
    widths = stretch(column_widths(rows, look), sheet.image.width - 2 * MARGIN)
    return total, draw_table(sheet, MARGIN, y, rows, look, widths, heads=1) + 16


def _sums(sheet: Sheet, rng: Random, cents: int, pen: Pen, strong: Pen, y: int) -> int:
    tax = (cents * rng.choice((6, 9, 10, 13, 20)) + 50) // 100
    sign = {"en": rng.choice(("$", "€", "£")), "zh": "¥"}[sheet.language]
    left, right = sheet.image.width - MARGIN - 260, sheet.image.width - MARGIN - 8
    for key, value in zip(SUMS[sheet.language], (cents, tax, cents + tax), strict=True):
        weight = strong if key == SUMS[sheet.language][-1] else pen
        sheet.pair(left, y, key, sign + words.amount(value), weight, right)
        y += pen.pitch
    if sheet.language == "zh":
        y += 6
        sheet.pair(MARGIN, y, CAPITALS, words.capital_amount(cents + tax), pen)
        y += pen.pitch
    return y
