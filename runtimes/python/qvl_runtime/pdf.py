"""Pages of PDFs, drawn when their pixels are wanted: a prompt too long is refused before any is drawn."""

from __future__ import annotations

import hashlib
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from .errors import InstallError, MediaError

if TYPE_CHECKING:
    from pypdfium2 import PdfDocument

MAX_PAGES = 64
"""Pages of one PDF in a prompt."""
PDF_DPI = 150
PDF_MAX_PIXELS = 1 << 25
_PAGES = re.compile(r"\s*(\d{1,9})\s*(-\s*(\d{1,9})?\s*)?")


class PdfPage:
    """A page as a source of an image; it keeps its document open, but no pixels."""

    def __init__(self, document: PdfDocument, index: int, dpi: int, path: Path, digest: bytes) -> None:
        self.path, self.index = path, index
        self._document, self._digest = document, digest
        width, height = document.get_page_size(index)
        self._scale = min(dpi / 72, (PDF_MAX_PIXELS / max(1.0, width * height)) ** 0.5)
        self.size = math.ceil(width * self._scale), math.ceil(height * self._scale)

    def draw(self) -> Image.Image:
        """The page in RGB; raises MediaError where it is damaged."""
        import pypdfium2

        try:
            page = self._document[self.index]
            image: Image.Image = page.render(scale=self._scale).to_pil()
            page.close()
        except pypdfium2.PdfiumError as error:
            raise MediaError(f"page {self.index + 1} cannot be drawn: {error}", where=self.path) from error
        return image.convert("RGB")

    copy = draw

    def resize(self, size: tuple[int, int], resample: int) -> Image.Image:
        """The page drawn and resized, as `PIL.Image.Image.resize` does."""
        return self.draw().resize(size, resample)

    def tobytes(self) -> bytes:
        """What tells the page from any other: its file, place and scale."""
        return self._digest + repr((self.index, self._scale)).encode()


def pdf_pages(path: str | Path, pages: str | None = None, dpi: int = PDF_DPI) -> list[PdfPage]:
    """Pages of a PDF as sources of images; `pages` such as "1-3,7" counts from one, None takes all."""
    try:
        import pypdfium2
    except ImportError as error:
        raise InstallError("PDFs need pypdfium2", fix="pip install 'qvl-runtime[pdf]'") from error
    path = Path(path)
    if not path.is_file():
        raise MediaError("no such file", where=path)
    content = path.read_bytes()
    try:
        document = pypdfium2.PdfDocument(content)
        document.init_forms()  # without it the text of filled-in fields is not drawn
        chosen = parse_pages(pages, len(document), path)
        if len(chosen) > MAX_PAGES:
            raise MediaError(f"{len(chosen)} pages at once, at most {MAX_PAGES}", where=path, fix="choose with --pages")
        digest = hashlib.sha256(content).digest()
        return [PdfPage(document, index, dpi, path, digest) for index in chosen]
    except pypdfium2.PdfiumError as error:
        raise MediaError(f"cannot be read as a PDF: {error}", where=path) from error


def parse_pages(pages: str | None, count: int, where: object) -> list[int]:
    """Zero-based indices of "1-3,7-" in a document of `count` pages; raises MediaError outside it."""
    if pages is None:
        return list(range(count))
    chosen: list[int] = []
    for part in pages.split(","):
        if not (match := _PAGES.fullmatch(part)):
            raise MediaError(f"pages {pages!r} are not numbers and ranges", where=where, fix='write "1-3,7"')
        start = int(match[1])
        end = int(match[3] or count) if match[2] else start
        if start > end and match[3]:
            raise MediaError(f"pages {part.strip()} run backwards", where=where)
        if not 1 <= start <= end <= count:
            raise MediaError(f"has {count} pages, asked for {part.strip()}", where=where)
        chosen.extend(range(start - 1, end))
    return chosen
