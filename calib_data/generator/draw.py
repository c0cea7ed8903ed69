"""Drawing text with Pillow so that every span knows where its characters are."""

from __future__ import annotations

from functools import lru_cache

from PIL import ImageDraw, ImageFont

from .fonts import missing_file
from .page import Span

Colour = tuple[int, int, int]


@lru_cache(maxsize=256)
def load_font(path: str, size: int) -> ImageFont.FreeTypeFont:
    """A font at `size` pixels; raises FontMissing naming its Debian package when it is not installed."""
    try:
        return ImageFont.truetype(path, size)
    except OSError as error:
        raise missing_file(path) from error


def draw_span(
    draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, font: ImageFont.FreeTypeFont, fill: Colour
) -> Span:
    """Draw `text` with its top left corner at `at` and return the span with its character centers."""
    draw.text(at, text, font=font, fill=fill)
    left, top, right, bottom = (round(edge) for edge in draw.textbbox(at, text, font=font))
    ends = [at[0] + font.getlength(text[: i + 1]) for i in range(len(text))]
    middle = (top + bottom) / 2
    starts = [float(at[0]), *ends[:-1]]
    centers = tuple(((start + end) / 2, middle) for start, end in zip(starts, ends, strict=True))
    return Span(text, (left, top, right, bottom), centers)
