"""PDF files: their pages, drawn on demand, and their text."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import math
import re
import sys
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from PIL import Image

from ._pdf.limits import PDF_LIMITS, Document, PdfFailure, PdfLimits
from .common.extras import install_fix
from .common.files import read_file
from .common.interruption import check_interrupted
from .errors import InstallError, MediaError

if TYPE_CHECKING:
    from ._pdf.process import PdfProcess
    from ._pdf.reader import Reply

MAX_PAGES = 64
"""Maximum pages of one PDF in a prompt."""
PDF_DPI = 150
PDF_MAX_PIXELS = 1 << 25
"""A page is drawn with at most this many pixels, whatever size it claims."""
PDF_MAX_BYTES = 1 << 29
"""Larger files are rejected: 512 MiB. `PdfLimits` limits the memory that pdfium uses for them."""
PDF_MAX_PAGES = 100_000
"""Documents with more pages are rejected: a damaged one may claim a million."""
_PAGES = re.compile(r"\s*(\d{1,9})\s*(-\s*(\d{1,9})?\s*)?")


class Pdf:
    """An open PDF, usable in a `with`; `len` is its number of pages, which count from 0 here and from 1 in errors.

    pdfium runs in a separate process, within `limits`. With `content`, that of a file, `path` is only its name. Raises
    MediaError naming the file, and the page if a page fails or exceeds the limits; InstallError without pypdfium2. May
    be copied and pickled.
    """

    def __init__(self, path: str | Path, limits: PdfLimits = PDF_LIMITS, content: bytes | None = None) -> None:
        if importlib.util.find_spec("pypdfium2") is None:
            raise InstallError("PDFs need pypdfium2", fix=install_fix("pdf"))
        self.path, self._limits = path, limits
        self._document = Document(read_file(path, PDF_MAX_BYTES) if content is None else content)
        with self._naming_file("cannot be read as a PDF"):
            self._count = _check_count(self._ask("open")[0]["pages"])
        if self._count > PDF_MAX_PAGES:
            raise MediaError(f"has {self._count:,} pages, more than {PDF_MAX_PAGES:,}", where=path, fix="split it")

    def __len__(self) -> int:
        return self._count

    def __enter__(self) -> Pdf:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Makes pdfium free the document; may be called more than once. Later calls of other methods reopen it."""
        self._process().release(self._document)

    def __del__(self) -> None:
        if hasattr(self, "_document") and not sys.is_finalizing():  # imports fail during finalization
            self.close()

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the file."""
        return hashlib.sha256(self._document.content).digest()

    def draw(self, index: int, dpi: int = PDF_DPI) -> Image.Image:
        """Renders a page in RGB."""
        with self._naming_file(f"page {index + 1} cannot be drawn"):
            scale, _ = _scaled(*self._points(index), dpi)
            head, pixels = self._ask("draw", page=index, scale=scale)
            return Image.frombuffer(
                "RGB", _check_size(head["size"]), pixels, "raw", "BGR", _check_count(head["stride"]), 1
            )

    def scaled(self, index: int, dpi: int = PDF_DPI) -> tuple[float, tuple[int, int]]:
        """Returns pixels per point (1/72 inch) of a page, and its width and height in pixels, without drawing it."""
        with self._naming_file(f"page {index + 1} has no size"):
            return _scaled(*self._points(index), dpi)

    def text(self, index: int) -> str:
        """Returns the text layer of a page as pdfium reports it; empty if there is none."""
        with self._naming_file(f"the text of page {index + 1} cannot be read"):
            return str(self._ask("text", page=index)[0]["text"])

    def _points(self, index: int) -> tuple[float, float]:
        """Returns width and height of a page in points."""
        width, height = map(float, self._ask("size", page=index)[0]["size"])
        if not (0 < width < math.inf and 0 < height < math.inf):
            raise PdfFailure(f"{width:g} × {height:g} points")
        return width, height

    def _ask(self, do: str, **arguments: Any) -> Reply:
        check_interrupted("while its PDF was read")
        return self._process().ask(self._document, do, **arguments)

    def _process(self) -> PdfProcess:
        from ._pdf.process import pdf_process  # its imports take longer than the rest of this package

        return pdf_process(self._limits)

    @contextlib.contextmanager
    def _naming_file(self, what: str) -> Iterator[None]:
        """Converts failures in the block into MediaErrors that name the file and say `what`."""
        try:
            yield
        except PdfFailure as error:
            raise MediaError(f"{what}: {error}", where=self.path) from error
        except (KeyError, TypeError, ValueError) as error:  # a process compromised by a PDF may reply anything
            raise MediaError(f"{what}: pdfium's reply is invalid", where=self.path) from error


class PdfPage:
    """A page as an image source; it keeps its document open, but stores no pixels."""

    def __init__(self, pdf: Pdf, index: int, dpi: int = PDF_DPI) -> None:
        self.index, self._pdf, self._dpi = index, pdf, dpi
        self._scale, self.size = pdf.scaled(index, dpi)

    def draw(self) -> Image.Image:
        """Renders the page in RGB; raises MediaError if it is damaged."""
        return self._pdf.draw(self.index, self._dpi)

    copy = draw

    def resize(self, size: tuple[int, int], resample: int) -> Image.Image:
        """Renders and resizes the page, as `PIL.Image.Image.resize` does."""
        return self.draw().resize(size, resample)

    def tobytes(self) -> bytes:
        """Returns bytes that identify the page: file hash, index and scale."""
        return self._pdf.digest + repr((self.index, self._scale)).encode()


def pdf_pages(
    path: str | Path, pages: str | None = None, dpi: int = PDF_DPI, limits: PdfLimits = PDF_LIMITS
) -> list[PdfPage]:
    """Returns pages of a PDF as image sources; `pages` such as "1-3,7" counts from one, None takes all."""
    pdf = Pdf(path, limits)
    chosen = parse_pages(pages, len(pdf), path)
    if len(chosen) > MAX_PAGES:
        raise MediaError(
            f"{len(chosen)} pages, at most {MAX_PAGES} fit a prompt",
            where=path,
            fix="choose with --pages",
        )
    return [PdfPage(pdf, index, dpi) for index in chosen]


def _scaled(width: float, height: float, dpi: int) -> tuple[float, tuple[int, int]]:
    """Returns pixels per point for a page of `width` × `height` points, and its size in pixels."""
    # a side of less than a pixel becomes one
    scale = min(dpi / 72, (PDF_MAX_PIXELS / (width * height)) ** 0.5, PDF_MAX_PIXELS / max(width, height))
    return scale, (math.ceil(width * scale), math.ceil(height * scale))


def _check_count(value: Any) -> int:
    """Returns a count from the pdfium process; raises ValueError unless it is an int of at least 0."""
    if type(value) is not int or value < 0:
        raise ValueError(value)
    return value


def _check_size(values: Any) -> tuple[int, int]:
    width, height = map(_check_count, values)
    if not 0 < width * height <= 2 * PDF_MAX_PIXELS:  # rounding up doubles the area of the thinnest page
        raise ValueError(values)
    return width, height


def parse_pages(pages: str | None, count: int, where: object) -> list[int]:
    """Returns zero-based indices of "1-3,7-" in a document of `count` pages; raises MediaError for invalid ranges."""
    if pages is None:
        return list(range(count))
    chosen: list[int] = []
    for part in pages.split(","):
        if not (match := _PAGES.fullmatch(part)):
            raise MediaError(f"pages {pages!r} must be numbers and ranges", where=where, fix='write "1-3,7"')
        start = int(match[1])
        end = int(match[3] or count) if match[2] else start
        if start == 0:
            raise MediaError("there is no page 0", where=where, fix="pages count from 1")
        if start > end and match[3]:
            raise MediaError(f"page range {part.strip()} is reversed", where=where)
        if not 1 <= start <= end <= count:
            raise MediaError(f"has {count} pages, got page {part.strip()}", where=where)
        chosen.extend(range(start - 1, end))
    return chosen
