"""PDF files: their pages drawn, and the text they carry."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from PIL import Image

from .errors import InstallError, MediaError

PDF_DPI = 150
PDF_MAX_PIXELS = 1 << 25
"""A page is drawn with at most this many pixels, whatever size it claims."""


class Pdf:
    """An open PDF, for a `with`; `len` is the number of its pages, which count from zero here and from one in errors.

    Raises MediaError naming the file, and the page where it is one that fails; InstallError without pypdfium2.
    """

    def __init__(self, path: str | Path) -> None:
        try:
            import pypdfium2
        except ImportError as error:
            raise InstallError("PDFs need pypdfium2", fix="pip install 'qvl-runtime[pdf]'") from error
        self.path, self._failure = path, pypdfium2.PdfiumError
        if not Path(path).is_file():
            raise MediaError("no such file", where=path)
        try:
            self._document = pypdfium2.PdfDocument(Path(path).read_bytes())
            self._document.init_forms()  # without it the text of filled-in fields is not drawn
        except self._failure as error:
            raise MediaError(f"cannot be read as a PDF: {error}", where=path) from error

    def __len__(self) -> int:
        return len(self._document)

    def __enter__(self) -> Pdf:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._document.close()

    def draw(self, index: int, dpi: int = PDF_DPI) -> Image.Image:
        """A page in RGB."""
        try:
            page = self._document[index]
            fitting = (PDF_MAX_PIXELS / max(1.0, page.get_width() * page.get_height())) ** 0.5
            drawn: Image.Image = page.render(scale=min(dpi / 72, fitting)).to_pil().convert("RGB")
        except self._failure as error:
            raise MediaError(f"page {index + 1} cannot be drawn: {error}", where=self.path) from error
        return drawn

    def text(self, index: int) -> str:
        """The text layer of a page as pdfium gives it; empty where there is none."""
        try:
            return str(self._document[index].get_textpage().get_text_bounded())
        except self._failure as error:
            raise MediaError(f"the text of page {index + 1} cannot be read: {error}", where=self.path) from error
