"""Images and PDFs without labels as a source of questions that ask to read the text.

The answer is a PDF's text layer. An image has no known answer; calibration uses the page and the prompt alone.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image

from qvl_runtime.bundle import sha256
from qvl_runtime.media.images import check_aspect, count_pages, load_pages
from qvl_runtime.pdf import Pdf

from ...common.labels import LABELS
from ...common.progress import Report
from ...errors import ExportError
from .page_question import Origin, Question, utf8_name

IMAGES = frozenset({".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
PDF = ".pdf"
READING_PROMPTS = {"en": "Read all the text in the image.", "zh": "请识别出图中所有的文字。"}
"""The models' own prompts for reading a page."""
LEAST_CHINESE = 0.2
"""Share of ideographs from which the prompt is Chinese; low because manuals and forms are half Latin."""
MOST_UNPRINTABLE = 0.05
"""Largest share of unprintable characters; above it the font's character map is broken or missing."""
BLANK_CONTRAST = 8
"""Largest difference, in levels of 256 per channel, between the darkest and lightest pixels of a blank page."""
LINE_HYPHEN = "\ufffe"
"""The character that pdfium returns for a hyphen at the end of a line, instead of hyphen and line break."""


@dataclass(frozen=True)
class PageRef:
    """A page of a file, counted from zero; `several` is set if the file has several pages or is a PDF."""

    file: Path
    index: int
    several: bool


def find_pages(path: Path) -> list[PageRef]:
    """Finds the pages of a file, or of all images and PDFs below a directory except hidden files and calibration sets.

    Raises ExportError if there are no pages, MediaError for a file that is damaged, encrypted or empty.
    """
    files = _files(path) if path.is_dir() else [path]
    if not files:
        raise ExportError("has no pages", where=path, fix="give images, PDFs, or a directory of them")
    return [page for file in files for page in _pages_of(file)]


def _files(directory: Path) -> list[Path]:
    paths = sorted(directory.rglob("*"))
    sets = {path.parent for path in paths if path.name == LABELS}
    pages = (path for path in paths if path.suffix.lower() in IMAGES | {PDF} and path.is_file())
    return [path for path in pages if not _hidden(path.relative_to(directory)) and sets.isdisjoint(path.parents)]


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _pages_of(file: Path) -> list[PageRef]:
    if not _is_pdf(file):
        count = count_pages(file)
        return [PageRef(file, index, count > 1) for index in range(count)]
    with Pdf(file) as pdf:
        if not len(pdf):
            raise ExportError("has no pages", where=file)
        return [PageRef(file, index, True) for index in range(len(pdf))]


def _is_pdf(file: Path) -> bool:
    return file.suffix.lower() == PDF


@dataclass(frozen=True)
class PlainPages:
    """Pages of the files below `root`, or of `root` itself if it is a file."""

    name: str
    root: Path
    refs: tuple[PageRef, ...]

    def __len__(self) -> int:
        return len(self.refs)

    def questions(self, chosen: Sequence[int], leave_out: Report, dpi: int) -> Iterator[Question]:
        """Yields the chosen questions file by file, so that each file is opened once."""
        for file, refs in groupby((self.refs[index] for index in chosen), key=lambda page: page.file):
            origin = Origin(file, utf8_name(Path(self.name, file.relative_to(self.root)).as_posix()), sha256(file))
            read = _pdf_pages if _is_pdf(file) else _image_pages
            for page, image, text in read(file, list(refs), dpi):
                where = Origin(file, origin.name, origin.sha256, page.index + 1 if page.several else None)
                check_aspect([image], str(where))
                if is_blank(image):
                    leave_out(f"{where}: is blank, left out")
                else:
                    yield Question(where, image, READING_PROMPTS[prompt_language(text)], (text,) if text else ())


def _pdf_pages(file: Path, refs: Sequence[PageRef], dpi: int) -> Iterator[tuple[PageRef, Image.Image, str]]:
    with Pdf(file) as pdf:
        for page in refs:
            yield page, pdf.draw(page.index, dpi), clean_text(pdf.text(page.index))


def _image_pages(file: Path, refs: Sequence[PageRef], dpi: int) -> Iterator[tuple[PageRef, Image.Image, str]]:
    pages = load_pages(file)
    for page in refs:
        yield page, pages[page.index], ""


def is_blank(image: Image.Image) -> bool:
    """Whether all pixels of an RGB page have about the same color."""
    return bool((np.ptp(np.asarray(image), axis=(0, 1)) <= BLANK_CONTRAST).all())


def clean_text(layer: str) -> str:
    """Returns a text layer in NFC with normalized spaces; empty if too many characters are unprintable."""
    lines = unicodedata.normalize("NFC", layer.replace(LINE_HYPHEN, "-\n")).splitlines()
    text = "\n".join(line for line in (" ".join(line.split()) for line in lines) if line)
    unprintable = sum(char == "\ufffd" or not (char.isprintable() or char == "\n") for char in text)
    return text if unprintable <= MOST_UNPRINTABLE * len(text) else ""


def prompt_language(text: str) -> str:
    """The language of the prompt: "zh" if enough of the text is ideographs, else "en"."""
    ideographs = sum("一" <= char <= "鿿" for char in text)
    return "zh" if text and ideographs >= LEAST_CHINESE * len(text) else "en"
