"""Selects the pages to calibrate on, evenly from calibration sets, images, PDFs and directories of them.

Selection reads headers and labels only, so that missing, damaged or encrypted files fail before any graph is built.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from qvl_runtime.manifest import Calibration
from qvl_runtime.pdf import PDF_DPI

from ...common.labels import LABELS, read_labels
from ...common.progress import Report
from ...errors import ExportError
from .labeled_set import LabeledSet
from .page_question import Origin, PageSource, Question, utf8_name
from .unlabeled_pages import PlainPages, find_pages

BUILT_IN = "built-in"
_INSTALLED = Path(__file__).parents[2] / "calibration"
_CHECKOUT = Path(__file__).parents[4] / "calib_data" / "calibration"
REPORT_SECONDS = 10


@dataclass(frozen=True)
class Pages:
    """Questions chosen from `sources`; `chosen` holds the indices per source."""

    sources: tuple[PageSource, ...]
    chosen: tuple[Sequence[int], ...]

    def __len__(self) -> int:
        return sum(map(len, self.chosen))

    @property
    def names(self) -> list[str]:
        return [source.name for source in self.sources]

    def questions(self, report: Report, dpi: int = PDF_DPI, leave_out: Report | None = None) -> Iterator[Question]:
        """Yields the questions with one page in memory at a time; reports progress to `report`.

        Reports blank pages to `leave_out` (default: `report`).

        Raises ExportError and MediaError with the file and page that cannot be read, ExportError if all are blank.
        """
        found = False
        for question in with_progress(self._questions(leave_out or report, dpi), len(self), report):
            found = True
            yield question
        if not found:
            raise ExportError("every page is blank", where=", ".join(self.names), fix="give pages that are not blank")

    def _questions(self, leave_out: Report, dpi: int) -> Iterator[Question]:
        for source, chosen in zip(self.sources, self.chosen, strict=True):
            yield from source.questions(chosen, leave_out, dpi)


def with_progress(questions: Iterable[Question], total: int, report: Report) -> Iterator[Question]:
    """Yields the questions; every REPORT_SECONDS it reports how many of `total` the caller has used."""
    began = reported = time.monotonic()
    for count, question in enumerate(questions, 1):
        yield question
        if (now := time.monotonic()) - reported > REPORT_SECONDS:
            left, reported = (now - began) / count * (total - count), now
            report(f"page {count} of {total} read, about {left:.0f} s left")


@dataclass
class Record:
    """Records the questions that were used."""

    names: Sequence[str]
    origins: set[Origin] = field(default_factory=set)
    digests: list[str] = field(default_factory=list)

    def add(self, question: Question) -> None:
        self.origins.add(question.origin)
        self.digests.append(question.digest)

    def calibration(self) -> Calibration:
        """The manifest's entry for the recorded questions."""
        whole = hashlib.sha256("\n".join(self.digests).encode()).hexdigest()
        return Calibration(sources=list(self.names), pages=len(self.origins), sha256=whole)


def select(paths: str | Path | Sequence[str | Path] = (), limit: int | None = None) -> Pages:
    """Selects up to `limit` questions, spread evenly over the sources and within each (default: the built-in set).

    Raises ExportError and MediaError if a source is empty or does not exist, has no pages, or is damaged or malformed.
    """
    given = [paths] if isinstance(paths, str | Path) else paths
    if "" in given:
        raise ExportError("the path of calibration pages is empty", fix="give images, PDFs, or a directory of them")
    sources = tuple(_source(Path(path)) for path in given) or (_labeled(built_in(), BUILT_IN),)
    counts = [len(source) for source in sources]
    shares = share(counts, sum(counts) if limit is None else limit)
    return Pages(sources, tuple(evenly(count, wanted) for count, wanted in zip(counts, shares, strict=True)))


def share(counts: Sequence[int], limit: int) -> list[int]:
    """Divides `limit` over sources of the given sizes; larger sources make up for small ones."""
    taken = [0] * len(counts)
    order = sorted(range(len(counts)), key=lambda index: counts[index])
    for rank, index in enumerate(order):
        taken[index] = min(counts[index], (limit - sum(taken)) // (len(counts) - rank))
    return taken


def evenly(count: int, wanted: int) -> list[int]:
    """Returns up to `wanted` evenly spaced indices below `count`, including the first and the last."""
    return [int(index) for index in np.unique(np.linspace(0, count - 1, min(wanted, count)).round())]


def built_in() -> Path:
    """The built-in set's directory: inside an installed package, or in a checkout where the set is built."""
    for directory in (_INSTALLED, _CHECKOUT):
        if (directory / LABELS).is_file():
            return directory
    raise ExportError("the built-in calibration pages are missing", where=_INSTALLED, fix="reinstall, or give --calib")


def _source(path: Path) -> PageSource:
    if not path.exists():
        raise ExportError("no such file or directory", where=path)
    name = utf8_name(path.resolve().name)
    if (path / LABELS).is_file():
        return _labeled(path, name)
    return PlainPages(name, path, tuple(find_pages(path)))


def _labeled(directory: Path, name: str) -> LabeledSet:
    return LabeledSet(name, directory, tuple(label for _, label in read_labels(directory)))
