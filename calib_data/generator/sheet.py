"""A page being drawn: what is written is recorded as truth at the same time."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image, ImageDraw

from . import fonts
from .draw import Colour, draw_span
from .page import Page, Span

INK: Colour = (25, 25, 30)
GREY: Colour = (130, 130, 130)
CLOSING = "，。、；：！？）》”"
BASELINE = 0.95
"""Distance of the baseline from the top of a line, in font sizes, so that all fonts sit alike."""


@dataclass(frozen=True)
class Pen:
    """A font (its key) at a size in pixels, in a color."""

    font: str
    size: int
    ink: Colour = INK

    def width(self, text: str) -> int:
        return round(fonts.load(self.font, self.size).getlength(text)) + 1

    @property
    def pitch(self) -> int:
        """A comfortable distance between two lines."""
        return round(self.size * 1.5)


class Sheet:
    """Spans are drawn by `write`, recorded in reading order by `line`, named by `field`."""

    def __init__(self, width: int, height: int, kind: str, language: str, paper: Colour = (255, 255, 255)) -> None:
        self.image = Image.new("RGB", (width, height), paper)
        self.draw = ImageDraw.Draw(self.image)
        self.kind, self.language = kind, language
        self.lines: list[tuple[Span, ...]] = []
        self.fields: dict[str, Span] = {}
        self.tables: list[str] = []

    def write(self, x: int, y: int, text: str, pen: Pen, align: str = "left") -> Span:
        """Draw `text` in the line whose top is `y`; `x` is its left edge, its middle or its right edge."""
        fonts.require(pen.font, text)
        font = fonts.load(pen.font, pen.size)
        shift = {"left": 0, "middle": pen.width(text) // 2, "right": pen.width(text)}[align]
        top = y + round(BASELINE * pen.size) - font.getmetrics()[0]
        return draw_span(self.draw, (x - shift, top), text, font, pen.ink)

    def line(self, *spans: Span) -> None:
        self.lines.append(spans)

    def put(self, x: int, y: int, text: str, pen: Pen, align: str = "left") -> Span:
        """Write a line that is a single span."""
        span = self.write(x, y, text, pen, align)
        self.line(span)
        return span

    def field(self, key: str, span: Span) -> None:
        if key in self.fields:
            raise ValueError(f"two fields of a page are called {key!r}")
        self.fields[key] = span

    def pair(self, x: int, y: int, key: str, value: str, pen: Pen, right: int | None = None) -> None:
        """A line `key: value` and its field; the value ends at `right` when that is given."""
        colon = "：" if self.language == "zh" else ":"
        label = self.write(x, y, key + colon, pen)
        at = (x + pen.width(key + colon) + pen.size // 3, "left") if right is None else (right, "right")
        span = self.write(at[0], y, value, pen, at[1])
        self.line(label, span)
        self.field(key, span)

    def rule(self, left: int, y: int, right: int, ink: Colour = GREY, width: int = 1) -> None:
        self.draw.line((left, y, right, y), fill=ink, width=width)

    def page(self, height: int | None = None) -> Page:
        """The finished page, cut off at `height`; raises ValueError where a text left the paper."""
        image = self.image.crop((0, 0, self.image.width, height or self.image.height))
        for span in (span for line in self.lines for span in line):
            left, top, right, bottom = span.box
            if left < 0 or top < 0 or right > image.width or bottom > image.height:
                raise ValueError(f"{self.kind}: {span.text!r} at {span.box} leaves the page of {image.size}")
        return Page(image, self.kind, self.language, tuple(self.lines), self.fields, tuple(self.tables))


def wrap(text: str, width: int, pen: Pen) -> list[str]:
    """Lines of at most `width` pixels: broken between words, or in Chinese between characters.

    No line begins with a closing punctuation mark.
    """
    lines, line = [], ""
    for part in _parts(text):
        if line and pen.width((line + part).rstrip()) > width:
            lines.append(line.rstrip())
            line = part.lstrip()
        else:
            line += part
    return [*lines, line.rstrip()] if line.strip() else lines


def _parts(text: str) -> list[str]:
    """Pieces that stay together: a word with its blank, a Chinese character with the punctuation after it."""
    parts: list[str] = []
    for char in text:
        last = parts[-1][-1] if parts else " "
        if parts and (char in CLOSING or (char.isascii() and last.isascii() and last != " ")):
            parts[-1] += char
        else:
            parts.append(char)
    return parts
