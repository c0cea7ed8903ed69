"""Pages for tests of calibration: scans, books of several pages, and the questions about them."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from qvl_export.quant.calibration_data.page_question import Question
from qvl_export.quant.calibration_data.selection import select


def scan(path: Path, ink: int = 0) -> Path:
    """A page with a line on it, whose color makes it unique."""
    path.parent.mkdir(exist_ok=True)
    image = Image.new("RGB", (60, 80), "white")
    image.paste((ink, 0, 0), (5, 20, 50, 24))
    image.save(path)
    return path


def book(path: Path, count: int) -> Path:
    """A TIFF of several pages."""
    pages = [Image.new("RGB", (60, 80), "white") for _ in range(count)]
    for number, page in enumerate(pages):
        page.paste("black", (5, 5 + number, 50, 9 + number))
    pages[0].save(path, save_all=True, append_images=pages[1:])
    return path


def questions(*sources: Path, limit: int | None = None) -> list[Question]:
    return list(select(sources, limit).questions(lambda _: None))
