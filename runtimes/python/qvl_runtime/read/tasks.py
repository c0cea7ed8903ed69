"""Tasks: the pages and requests of documents, found one document at a time, each with the hash of its content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from ..common.files import open_regular, read_lines
from ..errors import MediaError, QvlError
from ..media.images import MAX_IMAGE_BYTES, count_pages
from ..pdf import Pdf, parse_pages
from .inputs import Document, Kind

CHUNK = 1 << 20
Record = dict[str, Any]
"""The JSON object of a task in the file of answers."""


@dataclass(frozen=True)
class Task:
    """A page of a document or a request of a file, to be answered anywhere; it may be pickled.

    `file` is as it was named, `path` absolute: a machine of a cluster has another current directory. `page` counts
    pages, frames or lines from 1. `sha256` is that of the file, of a request that of its line; None if it could not be
    read, which `error` then says.
    """

    file: str
    path: str
    kind: Kind
    page: int | None = None
    sha256: str | None = None
    request: bytes | None = None
    error: str | None = None

    @property
    def index(self) -> int | None:
        """The page within the content that `sha256` is of; a request is known by its line alone."""
        return None if self.kind == "requests" else self.page

    @property
    def key(self) -> bytes:
        """What tasks of the same content have in common; of no meaning without `sha256`."""
        return content_key(self.sha256, self.index)


def content_key(sha256: str | None, index: int | None) -> bytes:
    """Returns a short key of a page's or a request's content."""
    return hashlib.blake2b(f"{sha256}:{index}".encode(), digest_size=16).digest()


class OpenPdfs:
    """Keeps the PDFs open that were used last, so that a page does not read its whole file again."""

    def __init__(self, most: int = 2) -> None:
        self._open, self._most, self._lock = dict[str, Pdf](), most, Lock()

    def get(self, path: str) -> Pdf:
        """Returns an open PDF; raises MediaError and InstallError."""
        with self._lock:
            pdf = self._open.pop(path, None) or Pdf(path)
            self._open[path] = pdf
            while len(self._open) > self._most:
                del self._open[next(iter(self._open))]  # closed once no task uses it any more
        return pdf


def tasks_of(document: Document, pages: str | None, pdfs: OpenPdfs, opened: Callable[[int], None]) -> Iterator[Task]:
    """Yields the tasks of a document, after a call of `opened` with their number; one with an error if it fails."""
    path = document.path
    try:
        if document.kind == "requests":
            opened(_count_lines(path))
            yield from _requests(document.name, path)
            return
        sha256, chosen = _pages(document.kind, path, pages, pdfs)
    except (QvlError, OSError, MemoryError) as error:
        opened(1)
        yield Task(document.name, path, document.kind, error=said(error))
        return
    opened(len(chosen))
    yield from (Task(document.name, path, document.kind, index + 1, sha256) for index in chosen)


def said(error: BaseException) -> str:
    """Returns the line that a record has for an exception."""
    if isinstance(error, QvlError):
        return str(error)
    if isinstance(error, MemoryError):
        return "not enough memory for this page (--max-pixels makes it smaller)"
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror or error}"
    return f"internal error: {type(error).__name__}: {error}"


def _pages(kind: Kind, path: str, pages: str | None, pdfs: OpenPdfs) -> tuple[str, list[int]]:
    """Returns the hash of a document and the indices of its pages that are wanted."""
    if kind == "pdf":
        pdf = pdfs.get(path)
        sha256, count = pdf.digest.hex(), len(pdf)
    else:
        sha256, count = _hash_of(path), count_pages(path)
    if not count:
        raise MediaError("has no pages", where=path)
    single = kind == "image" and count == 1  # --pages is about documents of several pages
    return sha256, parse_pages(None if single else pages, count, path)


def _hash_of(path: str) -> str:
    with open_regular(path, MAX_IMAGE_BYTES) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _count_lines(path: str) -> int:
    count = 0
    with open_regular(path, 1 << 62) as file:
        while piece := file.read(CHUNK):
            count += piece.count(b"\n")
    return max(1, count)


def _requests(name: str, path: str) -> Iterator[Task]:
    found = False
    for number, line in enumerate(read_lines(Path(path)), 1):
        if request := line.strip():
            found = True
            yield Task(name, path, "requests", number, hashlib.sha256(request).hexdigest(), request)
    if not found:
        raise MediaError("has no requests", where=path)
