"""What every kind of page returns: an image and the truth about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from PIL import Image

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels of the page."""


@dataclass(frozen=True)
class Span:
    """A run of text as drawn: its string, its box, and the center of every character in pixels."""

    text: str
    box: Box
    centers: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Page:
    """One page: `lines` in reading order, `fields` by their printed key, `tables` as HTML."""

    image: Image.Image
    kind: str
    language: str
    lines: tuple[tuple[Span, ...], ...]
    fields: Mapping[str, Span] = field(default_factory=dict)
    tables: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The lines joined by newlines, the spans of a line by one space (in Chinese only between ASCII ends)."""
        return "\n".join(self._joined(line) for line in self.lines)

    def _joined(self, line: tuple[Span, ...]) -> str:
        text = ""
        for span in line:
            gap = text and (self.language != "zh" or (text[-1].isascii() and span.text[0].isascii()))
            text += (" " if gap else "") + span.text
        return text
