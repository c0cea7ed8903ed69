"""Pages of real documents from Debian packages: rasterised at 100 dpi, their text layer as ground truth.

A document is known by the sha256 of its PDF, so that the same seed gives the same pages or an error. Pages are drawn
one from each of `count` equal stretches of the document, among those that are neither nearly empty nor over-long, are
mostly in the document's language, and whose text layer reads from top to bottom, one printed line after another.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from .dataset import Item
from .page import Box, Page, Span
from .prompts import read

DPI = 100
LEVELS = 16
"""Shades of gray that are kept: a PNG of four bits per pixel."""
SHORTEST = 300
LONGEST = {"en": 1900, "zh": 1400}
"""Characters of an answer; less for Chinese, where a character is more tokens."""
LEAST_CHINESE = 0.2
"""Share of a Chinese page's characters; much of such manuals is code or not translated."""
LEAST_ADVANCE = 5
"""Pixels from the middle of a line to the middle of the next one: less is a raised character or a cell beside it."""
MANGLED = "b''"
"""What the debmake guide prints around every line of its directory trees, by a mistake of its own making."""
LINE_HYPHEN = "\ufffe"
"""What pdfium returns for a hyphen at the end of a line, the line break swallowed."""

STRETCHED = re.compile("(?:[一-鿿] ){2,}[一-鿿]")
"""Chinese that is spread over a line to fill it, where pdfium takes the gaps for blanks."""


@dataclass(frozen=True)
class Document:
    package: str
    version: str
    licence: str
    language: str
    file: str
    sha256: str

    @property
    def path(self) -> Path:
        return Path("/usr/share/doc", self.package, self.file)

    @property
    def copyright(self) -> Path:
        return Path("/usr/share/doc", self.package, "copyright")


class DocumentMissing(OSError):
    """A document is not installed in the version its pages are drawn from; the message names its Debian package."""


_GUIDE = ("debmake-doc", "1.17-7", "Expat")
_ENGLISH = "b49a29f9f39ccf599a93de7789338eb001dda98063bfbb9960f7d45e95d027d6"
_CHINESE = "4ede55a6f80d39cbac8a79cbb47fe927b009a5c632a202c31d27e632999680f9"
DOCUMENTS = (
    Document(*_GUIDE, "en", "debmake-doc.en.pdf", _ENGLISH),
    Document(*_GUIDE, "zh", "debmake-doc.zh-cn.pdf", _CHINESE),
)


def document_items(document: Document, count: int, seed: str) -> Iterator[Item]:
    """`count` pages spread over `document`, of each of which its text is asked."""
    require_document(document)
    rng = Random(f"{seed}/{document.package}/{document.language}")
    usable = usable_pages(document)
    if len(usable) < count:
        raise ValueError(f"{document.path} has {len(usable)} usable pages, not {count}")
    edges = [round(i * len(usable) / count) for i in range(count + 1)]
    for first, end in pairwise(edges):
        number = rng.choice(usable[first:end])
        page, stem = document_page(document, number), f"{document.package}_{document.language}_{number:03d}"
        yield Item(stem, page, [read(page)], _source(document, number))


def require_document(document: Document) -> None:
    if not document.path.is_file():
        raise DocumentMissing(f"{document.path} is not installed: apt-get install {document.package}")
    if hashlib.sha256(document.path.read_bytes()).hexdigest() != document.sha256:
        raise DocumentMissing(f"{document.path} is not that of {document.package} {document.version}: install this one")


def document_page(document: Document, number: int) -> Page:
    """Page `number` (the first is 1) as a picture with its lines."""
    with _open(document) as pdf:
        page = pdf[number - 1]
        return Page(_render(page), "document", document.language, tuple((line,) for line in _lines(page)))


def usable_pages(document: Document) -> list[int]:
    """The numbers of the pages that may be drawn."""
    with _open(document) as pdf:
        return [i + 1 for i, page in enumerate(pdf) if _usable(_lines(page), _size(page), document.language)]


def _source(document: Document, number: int) -> dict[str, object]:
    package = {"package": document.package, "version": document.version, "file": document.file}
    return {**package, "language": document.language, "page": number}


def _usable(lines: list[Span], size: tuple[int, int], language: str) -> bool:
    text = "\n".join(line.text for line in lines)
    chinese = sum("一" <= char <= "鿿" for char in text) >= LEAST_CHINESE * len(text)
    fits = SHORTEST <= len(text) <= LONGEST[language] and MANGLED not in text
    return fits and (chinese or language != "zh") and orderly(lines, size)


def orderly(lines: list[Span], size: tuple[int, int]) -> bool:
    """Whether every line is on the paper and below the one before."""
    boxes = [line.box for line in lines]
    middles = np.array([(top + bottom) / 2 for _, top, _, bottom in boxes])
    inside = all(box[0] >= 0 and box[1] >= 0 and box[2] <= size[0] and box[3] <= size[1] for box in boxes)
    return inside and bool((np.diff(middles) >= LEAST_ADVANCE).all())


def _open(document: Document) -> Any:
    import pypdfium2

    return pypdfium2.PdfDocument(document.path)


def _size(page: Any) -> tuple[int, int]:
    width, height = page.get_size()
    return round(width * DPI / 72), round(height * DPI / 72)


def _render(page: Any) -> Image.Image:
    gray = page.render(scale=DPI / 72, grayscale=True).to_pil().convert("L")
    step = 255 / (LEVELS - 1)
    shades: Image.Image = gray.point([round(round(value / step) * step) for value in range(256)])
    return shades.convert("RGB")


def _lines(page: Any) -> list[Span]:
    """The text layer's printed lines that hold text, a hyphen at a line's end kept."""
    layer = page.get_textpage()
    text = layer.get_text_range()
    spans, start = [], 0
    for part in text.replace(LINE_HYPHEN, "\n").replace("\r", "\n").split("\n"):
        end = start + len(part)
        if part.strip():
            hyphen = "-" if text[end : end + 1] == LINE_HYPHEN else ""
            spans.append(Span(normal(part) + hyphen, _box(page, layer, range(start, end))))
        start = end + 1
    return spans


def normal(text: str) -> str:
    """Composed characters and plain single blanks, none between stretched ideographs; wide punctuation stays."""
    plain = " ".join(unicodedata.normalize("NFC", text).split())
    return STRETCHED.sub(lambda found: found[0].replace(" ", ""), plain)


def _box(page: Any, layer: Any, characters: range) -> Box:
    """Around the characters, in pixels from the top left."""
    scale, height = DPI / 72, page.get_size()[1]
    boxes = np.array([layer.get_charbox(i) for i in characters])
    left, bottom, right, top = boxes[boxes[:, 2] > boxes[:, 0]].T
    edges = (left.min(), height - top.max(), right.max(), height - bottom.min())
    return tuple(round(float(edge) * scale) for edge in edges)  # type: ignore[return-value]
