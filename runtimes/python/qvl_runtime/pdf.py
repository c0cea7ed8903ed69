"""PDF files: their pages, drawn when their pixels are wanted, and the text they carry."""

from __future__ import annotations

import contextlib
import hashlib
import math
import re
import threading
from functools import cached_property
from pathlib import Path
from types import TracebackType

from PIL import Image

from .errors import InstallError, MediaError
from .extras import install_fix

MAX_PAGES = 64
"""Pages of one PDF in a prompt."""
PDF_DPI = 150
PDF_MAX_PIXELS = 1 << 25
"""A page is drawn with at most this many pixels, whatever size it claims."""
_PDFIUM = threading.RLock()
"""pdfium works on one thing at a time, in whatever thread and document."""
_PAGES = re.compile(r"\s*(\d{1,9})\s*(-\s*(\d{1,9})?\s*)?")


class Pdf:
    """An open PDF, for a `with`; `len` is the number of its pages, which count from zero here and from one in errors.

    Raises MediaError naming the file, and the page where it is one that fails; InstallError without pypdfium2.
    """

    def __init__(self, path: str | Path) -> None:
        try:
            import pypdfium2
        except ImportError as error:
            raise InstallError("PDFs need pypdfium2", fix=install_fix("pdf")) from error
        self.path, self._failure = path, pypdfium2.PdfiumError
        if not Path(path).is_file():
            raise MediaError("no such file", where=path)
        self._content = Path(path).read_bytes()
        try:
            with _PDFIUM:
                self._document = pypdfium2.PdfDocument(self._content)
                self._document.init_forms()  # without it the text of filled-in fields is not drawn
                self._count = len(self._document)
        except self._failure as error:
            raise MediaError(f"cannot be read as a PDF: {error}", where=path) from error

    def __len__(self) -> int:
        return self._count

    def __enter__(self) -> Pdf:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Free the document; may be called twice."""
        with _PDFIUM:
            self._document.close()

    def __del__(self) -> None:
        """Here and not in pypdfium2, which would do it beside what another thread does."""
        if hasattr(self, "_document"):
            self.close()

    @cached_property
    def digest(self) -> bytes:
        """A hash of the file."""
        return hashlib.sha256(self._content).digest()

    def draw(self, index: int, dpi: int = PDF_DPI) -> Image.Image:
        """A page in RGB."""
        try:
            with _PDFIUM, contextlib.closing(self._document[index]) as page:
                drawn: Image.Image = page.render(scale=self.scaled(index, dpi)[0]).to_pil().convert("RGB")
        except self._failure as error:
            raise MediaError(f"page {index + 1} cannot be drawn: {error}", where=self.path) from error
        return drawn

    def scaled(self, index: int, dpi: int = PDF_DPI) -> tuple[float, tuple[int, int]]:
        """Pixels a point (1/72 inch) of a page, and its width and height in pixels, known without drawing it."""
        try:
            with _PDFIUM:
                width, height = self._document.get_page_size(index)
        except self._failure as error:
            raise MediaError(f"page {index + 1} has no size: {error}", where=self.path) from error
        if not (0 < width < math.inf and 0 < height < math.inf):
            raise MediaError(f"page {index + 1} has no size: {width:g} × {height:g} points", where=self.path)
        # a side of less than a pixel becomes one
        scale = min(dpi / 72, (PDF_MAX_PIXELS / (width * height)) ** 0.5, PDF_MAX_PIXELS / max(width, height))
        return scale, (math.ceil(width * scale), math.ceil(height * scale))

    def text(self, index: int) -> str:
        """The text layer of a page as pdfium gives it; empty where there is none."""
        try:
            with (
                _PDFIUM,
                contextlib.closing(self._document[index]) as page,
                contextlib.closing(page.get_textpage()) as text,
            ):
                return str(text.get_text_bounded())
        except self._failure as error:
            raise MediaError(f"the text of page {index + 1} cannot be read: {error}", where=self.path) from error


class PdfPage:
    """A page as a source of an image; it keeps its document open, but no pixels."""

    def __init__(self, pdf: Pdf, index: int, dpi: int = PDF_DPI) -> None:
        self.index, self._pdf, self._dpi = index, pdf, dpi
        self._scale, self.size = pdf.scaled(index, dpi)

    def draw(self) -> Image.Image:
        """The page in RGB; raises MediaError where it is damaged."""
        return self._pdf.draw(self.index, self._dpi)

    copy = draw

    def resize(self, size: tuple[int, int], resample: int) -> Image.Image:
        """The page drawn and resized, as `PIL.Image.Image.resize` does."""
        return self.draw().resize(size, resample)

    def tobytes(self) -> bytes:
        """What tells the page from any other: its file, place and scale."""
        return self._pdf.digest + repr((self.index, self._scale)).encode()


def pdf_pages(path: str | Path, pages: str | None = None, dpi: int = PDF_DPI) -> list[PdfPage]:
    """Pages of a PDF as sources of images; `pages` such as "1-3,7" counts from one, None takes all."""
    pdf = Pdf(path)
    chosen = parse_pages(pages, len(pdf), path)
    if len(chosen) > MAX_PAGES:
        raise MediaError(f"{len(chosen)} pages at once, at most {MAX_PAGES}", where=path, fix="choose with --pages")
    return [PdfPage(pdf, index, dpi) for index in chosen]


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
