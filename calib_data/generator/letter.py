"""Letters: sender, date, a greeting, two to four paragraphs of whole sentences wrapped to the page, a signature."""

from __future__ import annotations

from random import Random

from . import words
from .page import Page
from .sentences import CLOSINGS, GREETINGS, SUBJECTS, filled
from .sheet import Pen, Sheet, wrap

CHOICES = {
    "en": ("liberation-serif", "dejavu-serif", "liberation-sans", "courier-prime"),
    "zh": ("noto-serif-sc", "noto-sans-sc", "ukai", "wqy-microhei"),
}
FONTS = (*CHOICES["en"], *CHOICES["zh"])
KEYS = {"en": ("Date", "Subject"), "zh": ("日期", "主题")}
INDENT = {"en": 0, "zh": 2}
"""Characters by which the first line of a paragraph is set in."""


def letter_page(rng: Random) -> Page:
    language = rng.choice(("en", "zh"))
    pen = Pen(rng.choice(CHOICES[language]), rng.randint(15, 18))
    margin, width = rng.randint(44, 70), rng.randint(600, 700)
    sheet = Sheet(width, 1300, "letter", language)
    y = _head(sheet, rng, pen, margin)
    receiver = words.person(rng, language)
    sheet.put(margin, y, GREETINGS[language].format(receiver), pen)
    y += 2 * pen.pitch
    for sentences in _paragraphs(rng, language):
        y = _paragraph(sheet, sentences, pen, margin, y)
    y = _close(sheet, rng, pen, margin, y + 8)
    return sheet.page(y + rng.randint(30, 60))


def _head(sheet: Sheet, rng: Random, pen: Pen, margin: int) -> int:
    language, y = sheet.language, rng.randint(36, 56)
    edge, align = rng.choice(((margin, "left"), (sheet.image.width - margin, "right")))
    for text in (rng.choice(words.COMPANIES[language]), words.address(rng, language)):
        sheet.put(edge, y, text, pen, align)
        y += pen.pitch
    y += 16
    values = (words.written(words.day(rng), language, 1), rng.choice(SUBJECTS[language]))
    for key, value in zip(KEYS[language], values, strict=True):
        sheet.pair(margin, y, key, value, pen)
        y += pen.pitch
    return y + 16


def _paragraphs(rng: Random, language: str) -> list[list[str]]:
    """Two to four paragraphs of two to four sentences, none of them twice."""
    counts = [rng.randint(2, 4) for _ in range(rng.randint(2, 4))]
    sentences = iter(filled(rng, language, sum(counts)))
    return [[next(sentences) for _ in range(count)] for count in counts]


def _paragraph(sheet: Sheet, sentences: list[str], pen: Pen, margin: int, y: int) -> int:
    indent = INDENT[sheet.language]
    text = "　" * indent + ("" if sheet.language == "zh" else " ").join(sentences)
    for line in wrap(text, sheet.image.width - 2 * margin, pen):
        inset = len(line) - len(line.lstrip("　"))
        sheet.put(margin + inset * pen.size, y, line.lstrip("　"), pen)
        y += pen.pitch
    return y + pen.pitch // 2


def _close(sheet: Sheet, rng: Random, pen: Pen, margin: int, y: int) -> int:
    closing, name = rng.choice(CLOSINGS[sheet.language]), words.person(rng, sheet.language)
    edge, align = (margin, "left") if sheet.language == "en" else (sheet.image.width - margin, "right")
    sheet.put(edge, y, closing, pen, align)
    sheet.put(edge, y + 2 * pen.pitch, name, pen, align)
    sheet.field({"en": "Signature", "zh": "署名"}[sheet.language], sheet.lines[-1][0])
    return y + 3 * pen.pitch
