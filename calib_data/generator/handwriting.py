"""Notes as if by hand: a telephone message or a shopping list in fonts that imitate writing, slightly uneven."""

from __future__ import annotations

from random import Random

from . import fonts, words
from .page import Page
from .sentences import filled
from .sheet import Pen, Sheet, wrap

CHOICES = {"en": ("dkg", "breip", "klee"), "zh": ("wenkai", "wenkai-light", "ukai", "klee")}
FONTS = tuple(dict.fromkeys((*CHOICES["en"], *CHOICES["zh"])))
KEYS = {"en": ("To", "From", "Phone"), "zh": ("收件人", "来电人", "电话")}
LISTS = {"en": ("Shopping list", "To buy", "For Saturday"), "zh": ("购物清单", "周末要买", "采购单")}
INKS = ((30, 40, 120), (25, 25, 30), (60, 60, 70), (120, 30, 40))
PAPERS = ((255, 255, 255), (255, 252, 235), (245, 248, 252))
MARGIN, WIDTH = 36, 560


def handwriting_page(rng: Random) -> Page:
    language = rng.choice(("en", "zh"))
    make = rng.choice((_message, _shopping))
    pairs, texts = make(rng, language)
    colon = "：" if language == "zh" else ":"
    key = fonts.pick(rng, CHOICES[language], "".join([*(part for pair in pairs for part in pair), *texts, colon]))
    pen = Pen(key, rng.randint(24, 29), rng.choice(INKS))
    sheet = Sheet(WIDTH, 1000, "handwriting", language, rng.choice(PAPERS))
    return _draw(sheet, rng, pairs, texts, pen, ruled=rng.random() < 0.6)


def _message(rng: Random, language: str) -> tuple[list[tuple[str, str]], list[str]]:
    values = (words.person(rng, language), words.person(rng, language), words.phone(rng, language))
    return list(zip(KEYS[language], values, strict=True)), filled(rng, language, rng.randint(2, 3))


def _shopping(rng: Random, language: str) -> tuple[list[tuple[str, str]], list[str]]:
    goods = rng.sample([name for name, _, _ in words.GOODS[language]], rng.randint(4, 8))
    times = " x {}" if language == "en" else "{}份"
    return [], [rng.choice(LISTS[language]), *(f"{name}{times.format(rng.randint(1, 9))}" for name in goods)]


def _draw(sheet: Sheet, rng: Random, pairs: list[tuple[str, str]], texts: list[str], pen: Pen, ruled: bool) -> Page:
    """Lines begin a little off the margin and the rule, as a hand would."""
    pitch, y = round(pen.size * 1.7), 30
    lines = [line for text in texts for line in wrap(text, WIDTH - 2 * MARGIN - 8, pen)]
    if ruled:
        for i in range(len(pairs) + len(lines)):
            sheet.rule(MARGIN - 16, y + i * pitch + round(pen.size * 1.35), WIDTH - MARGIN + 16, (190, 205, 225))
    for key, value in pairs:
        sheet.pair(MARGIN + rng.randint(-4, 4), y + rng.randint(-2, 2), key, value, pen)
        y += pitch
    for line in lines:
        sheet.put(MARGIN + rng.randint(-4, 4), y + rng.randint(-2, 2), line, pen)
        y += pitch
    return sheet.page(y + 24)
