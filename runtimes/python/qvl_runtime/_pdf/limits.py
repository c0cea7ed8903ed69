"""Limits of reading a PDF, its content and its errors; separate from `process`, which takes longer to import."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import uuid4

PDF_MAX_MEMORY = 3 << 29
"""Memory limit of the process in bytes, the document included: 1.5 GiB."""
PDF_MAX_SECONDS = 30.0
"""Time limit for opening a document, or for drawing or reading one page."""


class PdfFailure(Exception):
    """pdfium could not complete a request; the message says why."""


@dataclass(frozen=True)
class PdfLimits:
    """Memory limit of the process in bytes, and time limit in seconds per page and for opening."""

    memory: int = PDF_MAX_MEMORY
    seconds: float = PDF_MAX_SECONDS


PDF_LIMITS = PdfLimits()


@dataclass(frozen=True)
class Document:
    """The content of a file, and a name that identifies it to the process."""

    content: bytes = field(repr=False)
    name: str = field(default_factory=lambda: uuid4().hex)
