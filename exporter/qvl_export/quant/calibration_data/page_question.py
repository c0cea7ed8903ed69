"""A question about a page: what calibration sources give, whatever they are."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image

from ...common.progress import Report


def shown(name: str) -> str:
    """A file's name as text, whatever bytes it is made of."""
    return os.fsencode(name).decode("utf-8", "replace")


@dataclass(frozen=True)
class Origin:
    """Where a page comes from: a file with its hash, and in a file of several pages its number, from one.

    `name` is the file's path below its source, the source's own name first; it says nothing of the machine.
    """

    file: Path
    name: str
    sha256: str
    page: int | None = None

    def __str__(self) -> str:
        return f"{self.file}: page {self.page}" if self.page else str(self.file)


@dataclass(frozen=True)
class Question:
    """One question about one page; `answers` is empty where nobody knows the answer."""

    origin: Origin
    image: Path | Image.Image
    prompt: str
    answers: tuple[str, ...] = ()
    task: str = "ocr"
    kind: str = "document"

    @property
    def answer(self) -> str:
        """The text that is calibrated on after the prompt."""
        return self.answers[0] if self.answers else ""

    @property
    def digest(self) -> str:
        """The hash of all that calibration sees of it: the file, the page in it, the prompt, the answer."""
        seen = (self.origin.sha256, str(self.origin.page or ""), self.prompt, self.answer)
        return hashlib.sha256("\0".join(seen).encode()).hexdigest()


class Source(Protocol):
    """What one `--calib` names; `len` is the number of questions it has to give."""

    @property
    def name(self) -> str: ...

    def __len__(self) -> int: ...

    def questions(self, chosen: Sequence[int], leave_out: Report, dpi: int) -> Iterator[Question]:
        """The chosen questions, PDF pages drawn at `dpi`; `leave_out` is told of pages with nothing on."""
