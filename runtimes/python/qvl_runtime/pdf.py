"""PDF files: their pages, drawn when their pixels are wanted, and the text they carry."""

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
from .errors import InstallError, MediaError

if TYPE_CHECKING:
    from ._pdf.process import PdfProcess
    from ._pdf.reader import Reply

MAX_PAGES = 64
"""Pages of one PDF in a prompt."""
PDF_DPI = 150
PDF_MAX_PIXELS = 1 << 25
"""A page is drawn with at most this many pixels, whatever size it claims."""
PDF_MAX_BYTES = 1 << 29
"""Larger files are refused: 512 MiB. What pdfium makes of them is bounded by `PdfLimits`."""
PDF_MAX_PAGES = 100_000
"""Larger documents are refused: a damaged one may claim a million pages."""
_PAGES = re.compile(r"\s*(\d{1,9})\s*(-\s*(\d{1,9})?\s*)?")


class Pdf:
    """An open PDF, for a `with`; `len` is the number of its pages, which count from zero here and from one in errors.

    pdfium works on it in a process of its own, within `limits`. Raises MediaError naming the file, and the page if one
    fails or exceeds the limits; InstallError without pypdfium2. May be copied and pickled.
    """

    def __init__(self, path: str | Path, limits: PdfLimits = PDF_LIMITS) -> None:
        if importlib.util.find_spec("pypdfium2") is None:
            raise InstallError("PDFs need pypdfium2", fix=install_fix("pdf"))
        self.path, self._limits = path, limits
        self._document = Document(read_file(path, PDF_MAX_BYTES))
        with self._naming("cannot be read as a PDF"):
            self._count = _whole(self._ask("open")[0]["pages"])
        if self._count > PDF_MAX_PAGES:
            raise MediaError(f"claims to have {self._count:,} pages, too many", where=path, fix="split it")

    def __len__(self) -> int:
        return self._count

    def __enter__(self) -> Pdf:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let pdfium free the document; may be called twice, and what is asked afterwards opens it again."""
        self._process().release(self._document)

    def __del__(self) -> None:
        if hasattr(self, "_document") and not sys.is_finalizing():  # nothing can be imported any more then
            self.close()

    @cached_property
    def digest(self) -> bytes:
        """A hash of the file."""
        return hashlib.sha256(self._document.content).digest()

    def draw(self, index: int, dpi: int = PDF_DPI) -> Image.Image:
        """A page in RGB."""
        with self._naming(f"page {index + 1} cannot be drawn"):
            scale, _ = _scaled(*self._points(index), dpi)
            head, pixels = self._ask("draw", page=index, scale=scale)
            return Image.frombuffer("RGB", _size(head["size"]), pixels, "raw", "BGR", _whole(head["stride"]), 1)

    def scaled(self, index: int, dpi: int = PDF_DPI) -> tuple[float, tuple[int, int]]:
        """Pixels a point (1/72 inch) of a page, and its width and height in pixels, known without drawing it."""
        with self._naming(f"page {index + 1} has no size"):
            return _scaled(*self._points(index), dpi)

    def text(self, index: int) -> str:
        """The text layer of a page as pdfium gives it; empty where there is none."""
        with self._naming(f"the text of page {index + 1} cannot be read"):
            return str(self._ask("text", page=index)[0]["text"])

    def _points(self, index: int) -> tuple[float, float]:
        """Width and height of a page."""
        width, height = map(float, self._ask("size", page=index)[0]["size"])
        if not (0 < width < math.inf and 0 < height < math.inf):
            raise PdfFailure(f"{width:g} × {height:g} points")
        return width, height

    def _ask(self, do: str, **arguments: Any) -> Reply:
        return self._process().ask(self._document, do, **arguments)

    def _process(self) -> PdfProcess:
        from ._pdf.process import pdf_process  # what it imports takes longer than all of this package

        return pdf_process(self._limits)

    @contextlib.contextmanager
    def _naming(self, what: str) -> Iterator[None]:
        """Failures inside the block are MediaErrors that name the file and say `what`."""
        try:
            yield
        except PdfFailure as error:
            raise MediaError(f"{what}: {error}", where=self.path) from error
        except (KeyError, TypeError, ValueError) as error:  # a process that a PDF took over may answer anything
            raise MediaError(f"{what}: pdfium's answer makes no sense", where=self.path) from error


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


def pdf_pages(
    path: str | Path, pages: str | None = None, dpi: int = PDF_DPI, limits: PdfLimits = PDF_LIMITS
) -> list[PdfPage]:
    """Pages of a PDF as sources of images; `pages` such as "1-3,7" counts from one, None takes all."""
    pdf = Pdf(path, limits)
    chosen = parse_pages(pages, len(pdf), path)
    if len(chosen) > MAX_PAGES:
        raise MediaError(f"{len(chosen)} pages at once, at most {MAX_PAGES}", where=path, fix="choose with --pages")
    return [PdfPage(pdf, index, dpi) for index in chosen]


def _scaled(width: float, height: float, dpi: int) -> tuple[float, tuple[int, int]]:
    """Pixels a point of a page of so many points, and its size in pixels."""
    # a side of less than a pixel becomes one
    scale = min(dpi / 72, (PDF_MAX_PIXELS / (width * height)) ** 0.5, PDF_MAX_PIXELS / max(width, height))
    return scale, (math.ceil(width * scale), math.ceil(height * scale))


def _whole(value: Any) -> int:
    """A count as the process of pdfium gave it; raises ValueError for what is none."""
    if type(value) is not int or value < 0:
        raise ValueError(value)
    return value


def _size(values: Any) -> tuple[int, int]:
    width, height = map(_whole, values)
    if not 0 < width * height <= 2 * PDF_MAX_PIXELS:  # rounded up, the thinnest page has twice what it should
        raise ValueError(values)
    return width, height


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
