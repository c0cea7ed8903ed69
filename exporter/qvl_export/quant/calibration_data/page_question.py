"""A question about a page: the common output of all calibration sources."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image

from ...common.progress import Report

DEFAULT_TASK = "ocr"
"""The task of pages without labels, and of labels that name none."""


def utf8_name(name: str) -> str:
    """Returns a file's name as valid text; bytes that are not UTF-8 are replaced."""
    return os.fsencode(name).decode("utf-8", "replace")


@dataclass(frozen=True)
class Origin:
    """The source of a page: a file, its hash, and the page number from one if the file has several pages.

    `name` is the file's path relative to its source, prefixed by the source's name; it names no machine path.
    """

    file: Path
    name: str
    sha256: str
    page: int | None = None

    def __str__(self) -> str:
        return f"{self.file}: page {self.page}" if self.page else str(self.file)


@dataclass(frozen=True)
class Question:
    """One question about one page; `answers` is empty if the answer is unknown."""

    origin: Origin
    image: Path | Image.Image
    prompt: str
    answers: tuple[str, ...] = ()
    task: str = DEFAULT_TASK
    kind: str = "document"

    @property
    def answer(self) -> str:
        """The text that follows the prompt in calibration."""
        return self.answers[0] if self.answers else ""

    @property
    def digest(self) -> str:
        """Hash of everything that calibration uses: the file's hash, the page number, the prompt, the answer."""
        seen = (self.origin.sha256, str(self.origin.page or ""), self.prompt, self.answer)
        return hashlib.sha256("\0".join(seen).encode()).hexdigest()


class PageSource(Protocol):
    """The pages that one `--calib` names; `len` is the number of its questions."""

    @property
    def name(self) -> str: ...

    def __len__(self) -> int: ...

    def questions(self, chosen: Sequence[int], leave_out: Report, dpi: int) -> Iterator[Question]:
        """Yields the chosen questions, PDF pages rendered at `dpi`; reports blank pages to `leave_out`."""
