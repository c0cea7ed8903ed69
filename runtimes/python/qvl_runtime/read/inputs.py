"""The documents that a user names: files, folders and patterns, each file once, in natural order within a folder."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..common.natural_order import natural_order
from ..drawing import is_image
from ..errors import MediaError
from ..media.sources import is_remote

Kind = Literal["image", "pdf", "requests"]
REQUESTS = (".jsonl", ".ndjson")
FORMS = "give images, PDFs, folders of them, quoted patterns such as 'scans/*.png', or .jsonl files of requests"


@dataclass(frozen=True, slots=True)
class Document:
    """A file to read: an image with one or more frames, a PDF, or a file with a request on each line."""

    name: str
    kind: Kind

    @property
    def path(self) -> str:
        """The absolute path of a file that was named from the current directory."""
        return os.path.join(os.getcwd(), self.name)


def find_documents(names: Sequence[str]) -> list[Document]:
    """Returns the documents; raises MediaError if a name matches nothing or a folder cannot be read.

    A folder gives the images and PDFs in it and in its folders, hidden ones and other files left out. A file that is
    named is a document whatever its suffix.
    """
    found: dict[str, Document] = {}
    for name in names:
        for path in _files(name):
            found.setdefault(os.path.abspath(path), Document(path, _kind(path)))
    return [*found.values()]


def _files(name: str) -> list[str]:
    if not name:
        raise MediaError("the path of an input is empty", fix=FORMS)
    if is_remote(name):
        raise MediaError("is a URL", where=name, fix="URLs are not fetched; download the files first")
    if os.path.isdir(name):
        found = sorted(_below(name), key=natural_order)
        problem = "is a directory without images and PDFs"
    elif glob.has_magic(name) and not os.path.lexists(name):
        found = sorted(filter(os.path.isfile, glob.glob(name, recursive=True)), key=natural_order)
        problem = "matches no file"
    else:
        found = [name] if os.path.lexists(name) else []
        problem = "no such file"
    if not found:
        raise MediaError(problem, where=name, fix=FORMS)
    return found


def _below(directory: str) -> Iterator[str]:
    for parent, folders, files in os.walk(directory, onerror=_refuse):
        folders[:] = [folder for folder in folders if not folder.startswith(".")]
        for name in files:
            path = Path(parent, name)
            if not name.startswith(".") and (path.suffix.lower() == ".pdf" or is_image(path)):
                yield str(path)


def _refuse(error: OSError) -> None:
    fix = "make it readable, or name the folders that are"
    raise MediaError(f"cannot be read: {error.strerror or error}", where=error.filename, fix=fix) from error


def _kind(path: str) -> Kind:
    suffix = Path(path).suffix.lower()
    return "requests" if suffix in REQUESTS else "pdf" if suffix == ".pdf" else "image"
