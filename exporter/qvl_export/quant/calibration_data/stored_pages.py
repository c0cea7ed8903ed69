"""Calibration pages that are read once: files are hashed, PDF pages rendered, and blank pages left out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from PIL import Image

from qvl_runtime.manifest import Calibration

from ...common.atomic_output import atomic_file
from ...common.progress import Report
from .page_question import Question
from .selection import Pages, Record, with_progress

PNG_LEVEL = 1
"""zlib level: the files live as long as the export, and level 6 takes longer than rendering the page."""


@dataclass
class StoredPages:
    """The questions of `pages`, read on first use; rendered pages are then kept as PNGs in `directory`.

    One decoded page is in memory at a time.
    """

    pages: Pages
    directory: Path
    _questions: list[Question] = field(default_factory=list)

    def questions(self, report: Report) -> Iterator[Question]:
        """Yields the questions, whose images are paths; reports progress to `report`, and blank pages the first time.

        Raises ExportError and MediaError as `Pages.questions` does.
        """
        stored = self._stored(report)
        yield from with_progress(stored, len(stored), report)

    def calibration(self, report: Report) -> Calibration:
        """The manifest's entry for the questions."""
        record = Record(self.pages.names)
        for question in self._stored(report):
            record.add(question)
        return record.calibration()

    def _stored(self, report: Report) -> list[Question]:
        if not self._questions:
            self._questions = [self._store(question) for question in self.pages.questions(report)]
        return self._questions

    def _store(self, question: Question) -> Question:
        """Replaces the image by its file; a page of a PDF or TIFF is first written to one."""
        if isinstance(question.image, Path):
            return question
        if question.origin.page is None:
            return replace(question, image=question.origin.file)
        name = f"{question.origin.sha256}.{question.origin.page}.png"
        return replace(question, image=self._write(question.image, name))

    def _write(self, image: Image.Image, name: str) -> Path:
        bare = image.copy()
        bare.info.clear()  # metadata such as color profiles would be written too
        self.directory.mkdir(parents=True, exist_ok=True)
        with atomic_file(self.directory / name) as file:
            bare.save(file, "PNG", compress_level=PNG_LEVEL)
        return self.directory / name
