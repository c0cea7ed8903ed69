"""`calib build`: builds a calibration set from a user's own pages, for review and reuse.

OUT_SET holds the images, `labels.jsonl` with one line per question, and `manifest.json` with the source and the sha256
of every file. The same sources give the same bytes. A page with the same prompt is kept once.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from PIL import Image

from qvl_runtime.bundle import sha256
from qvl_runtime.common.counted import counted
from qvl_runtime.media.images import load_image
from qvl_runtime.pdf import PDF_DPI

from ..._version import __version__
from ...common.atomic_output import OutputKind, writing
from ...common.fingerprint import versions
from ...common.labels import LABELS, Label
from ...common.progress import Report
from .page_question import Question
from .selection import Record, select

MANIFEST = "manifest.json"
SET = OutputKind("a calibration set", (LABELS, MANIFEST))
KEPT = {b"\x89PNG\r\n": "png", b"\xff\xd8\xff": "jpg"}
"""First bytes of files that are copied unchanged, and their extensions."""
LONGEST_STEM = 60


@dataclass(frozen=True)
class SetPlan:
    """Writes up to `samples` pages (None: all) of `sources` to the directory `out`."""

    sources: Sequence[str | Path]
    out: str | Path
    samples: int | None = None
    dpi: int = PDF_DPI
    force: bool = False


@dataclass(frozen=True)
class BuiltSet:
    """The result of a build; `sha256` is the value in the manifest of a bundle calibrated on the whole set."""

    out: str
    pages: int
    questions: int
    answered: int
    duplicates: list[str]
    left_out: list[str]
    sha256: str


@dataclass
class _SetWriter:
    """A set while it is written: its lines, the sources of its images, and duplicates."""

    folder: Path
    report: Report
    labels: list[Label] = field(default_factory=list)
    sources: dict[str, dict[str, object]] = field(default_factory=dict)
    duplicates: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    images: dict[str, str] = field(default_factory=dict)
    asked: set[tuple[str, str]] = field(default_factory=set)

    def add(self, question: Question) -> None:
        extension, content = _encoded(question)
        digest = hashlib.sha256(content).hexdigest()
        if (digest, question.prompt) in self.asked:
            self.duplicates.append(str(question.origin))
            self.report(f"{question.origin}: is the same as {self._source(digest)} and is kept once")
            return
        self.asked.add((digest, question.prompt))
        if digest not in self.images:
            self._keep(question, digest, extension, content)
        self.labels.append(
            Label(
                image=self.images[digest],
                prompt=question.prompt,
                task=question.task,
                answers=list(question.answers),
                kind=question.kind,
            )
        )

    def leave_out(self, why: str) -> None:
        self.left_out.append(why)
        self.report(why)

    def _keep(self, question: Question, digest: str, extension: str, content: bytes) -> None:
        """Writes the image; its file name holds a number that keeps the order and the name of the source."""
        origin = question.origin
        page = f"_{origin.page:03d}" if origin.page else ""
        name = f"{len(self.images) + 1:04d}_{Path(origin.name).stem[:LONGEST_STEM]}{page}.{extension}"
        (self.folder / name).write_bytes(content)
        self.images[digest] = name
        number = {"page": origin.page} if origin.page else {}
        self.sources[name] = {"file": origin.name, **number, "sha256": origin.sha256}

    def _source(self, digest: str) -> str:
        source = self.sources[self.images[digest]]
        return f"{source['file']}: page {source['page']}" if "page" in source else str(source["file"])


def build(plan: SetPlan, report: Report) -> BuiltSet:
    """Builds the set; reports pages left out, duplicates and progress to `report`.

    Raises OutputError if it cannot be written to `out`, ExportError and MediaError for sources that cannot be used.
    Nothing is left behind on an error.
    """
    out = Path(plan.out)
    with writing(out, plan.force, SET) as folder:
        pages = select(plan.sources, plan.samples)
        report(f"reading {counted(len(pages), 'page')} of {', '.join(pages.names)}")
        writer = _SetWriter(folder, report)
        for question in pages.questions(report, plan.dpi, writer.leave_out):
            writer.add(question)
        _write_labels(writer)
        _write_manifest(writer, plan)
    used = Record([out.name])
    for question in select(out).questions(report):
        used.add(question)
    return BuiltSet(
        out=str(plan.out),
        pages=len(writer.images),
        questions=len(writer.labels),
        answered=sum(bool(label.answers) for label in writer.labels),
        duplicates=writer.duplicates,
        left_out=writer.left_out,
        sha256=used.calibration().sha256,
    )


def _encoded(question: Question) -> tuple[str, bytes]:
    """Extension and bytes of a page's image: the file's own if it is a PNG or JPEG, else a PNG."""
    image = load_image(question.image)  # raises for damaged images, so that none is copied
    if question.origin.page is None:
        content = question.origin.file.read_bytes()
        for beginning, extension in KEPT.items():
            if content.startswith(beginning):
                return extension, content
    buffer = io.BytesIO()
    _lean(image).save(buffer, "PNG")
    return "png", buffer.getvalue()


def _lean(image: Image.Image) -> Image.Image:
    """Returns an RGB image as one channel if that loses nothing."""
    red, green, blue = image.split()
    return red if red.tobytes() == green.tobytes() == blue.tobytes() else image


def _write_labels(writer: _SetWriter) -> None:
    lines = [msgspec.json.encode(label) + b"\n" for label in writer.labels]
    (writer.folder / LABELS).write_bytes(b"".join(lines))


def _write_manifest(writer: _SetWriter, plan: SetPlan) -> None:
    """Writes the manifest in the form of `calib_data`: arguments, versions that affect the bytes, sources, sha256."""
    files = sorted(path for path in writer.folder.iterdir())
    content = {
        "producer": f"qvl-export {__version__}",
        "arguments": {"samples": plan.samples, "dpi": plan.dpi},
        **versions(("pillow", "pypdfium2")),  # pypdfium2 is not needed for images
        "source": writer.sources,
        "sha256": {path.name: sha256(path) for path in files},
    }
    text = json.dumps(content, ensure_ascii=False, indent=1)
    (writer.folder / MANIFEST).write_text(text + "\n", "utf-8")
