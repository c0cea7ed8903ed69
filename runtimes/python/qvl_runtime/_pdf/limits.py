"""What a PDF may cost, and what is said of it: apart from the process that reads PDFs, which takes longer to import."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import uuid4

PDF_MAX_MEMORY = 3 << 29
"""Bytes that the process may take, the document among them: 1.5 GiB."""
PDF_MAX_SECONDS = 30.0
"""Time to open a document, or to draw or read one page."""


class PdfFailure(Exception):
    """Why pdfium did not do what it was asked."""


@dataclass(frozen=True)
class PdfLimits:
    """Bytes of memory of the process, and seconds a page or the opening may take."""

    memory: int = PDF_MAX_MEMORY
    seconds: float = PDF_MAX_SECONDS


PDF_LIMITS = PdfLimits()


@dataclass(frozen=True)
class Document:
    """The content of a file, and a name by which it is known to the process."""

    content: bytes = field(repr=False)
    name: str = field(default_factory=lambda: uuid4().hex)
