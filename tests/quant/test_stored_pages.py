"""Calibration pages are read once per export, for all of its measurements, and not kept in memory."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from qvl_export import export
from qvl_export.quant.calibration import layerwise
from qvl_export.quant.calibration.resume import IMAGES, directory_of
from qvl_export.quant.calibration_data import labeled_set, unlabeled_pages
from qvl_export.quant.calibration_data.selection import Pages, Record, select
from qvl_export.quant.calibration_data.stored_pages import StoredPages
from qvl_runtime.media.images import load_image
from qvl_runtime.pdf import Pdf
from tests.heldout import HELDOUT
from tests.oracles.tiny import REFERENCE
from tests.pdfs import text_pdf
from tests.plans import export_plan
from tests.quant.pages import book, scan


def ignore(_: str) -> None:
    pass


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    """A PDF with a blank page, a TIFF of two pages, a scan, and a set with two questions about one page."""
    labels = tmp_path / "set"
    labels.mkdir()
    shutil.copyfile(HELDOUT / "simple_0000.png", labels / "p.png")
    lines = [{"image": "p.png", "prompt": prompt, "answers": ["x"]} for prompt in ("Read.", "What is it?")]
    (labels / "labels.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    pdf = text_pdf(tmp_path / "a.pdf", [["one"], [], ["three"]])
    return [pdf, book(tmp_path / "b.tif", 2), scan(tmp_path / "c.png"), labels]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each PDF page was rendered, and each file hashed and, if its images have no labels, decoded."""
    found: Counter[str] = Counter()
    draw, load, sha256 = Pdf.draw, unlabeled_pages.load_pages, unlabeled_pages.sha256

    def count(kind: str, path: Any, page: int | None = None) -> None:
        found[f"{kind} {Path(path).name}{'' if page is None else f' {page}'}"] += 1

    monkeypatch.setattr(
        Pdf, "draw", lambda pdf, page, *rest: (count("draw", pdf.path, page), draw(pdf, page, *rest))[1]
    )
    monkeypatch.setattr(unlabeled_pages, "load_pages", lambda path: (count("load", path), load(path))[1])
    for module in (labeled_set, unlabeled_pages):
        monkeypatch.setattr(module, "sha256", lambda path: (count("hash", path), sha256(path))[1])
    return found


@pytest.mark.parametrize("options", [{"precision": "int4"}, {"precision": "hybrid"}, {"max_kl": 0.01}], ids=str)
def test_every_page_is_rendered_and_hashed_once(
    sources: list[Path], counted: Counter[str], tmp_path: Path, options: dict[str, Any]
) -> None:
    export(export_plan(REFERENCE, tmp_path / "b", calib=sources, **options))
    drawn = [f"draw a.pdf {page}" for page in range(3)]
    assert counted == dict.fromkeys([*drawn, "load b.tif", "load c.png", *(f"hash {path.name}" for path in sources[:3]),
                                     "hash p.png"], 1)  # fmt: skip
    assert not directory_of(tmp_path / "b").exists()


def test_stored_questions_are_those_of_the_pages(sources: list[Path], tmp_path: Path) -> None:
    """With the same pixels and the same record, and with paths instead of decoded images."""
    pages, reported = select(sources), list[str]()
    stored = StoredPages(pages, tmp_path / "images")
    record = Record(pages.names)
    for _ in range(2):
        for ours, exact in zip(stored.questions(reported.append), pages.questions(ignore), strict=True):
            assert isinstance(ours.image, Path)
            assert load_image(ours.image).tobytes() == load_image(exact.image).tobytes()
            assert (ours.origin, ours.prompt, ours.answers) == (exact.origin, exact.prompt, exact.answers)
    for question in pages.questions(ignore):
        record.add(question)
    assert stored.calibration(ignore) == record.calibration()
    assert reported == [f"{sources[0]}: page 2: is blank, left out"]
    assert len(list((tmp_path / "images").iterdir())) == 4


def test_color_profiles_of_pages_are_not_stored(tmp_path: Path) -> None:
    image = load_image(book(tmp_path / "a.tif", 1))
    image.info["icc_profile"] = b"not a profile"
    image.save(tmp_path / "b.tif", save_all=True, append_images=[image])
    (first, _) = StoredPages(select(tmp_path / "b.tif"), tmp_path / "images").questions(ignore)
    assert isinstance(first.image, Path) and b"iCCP" not in first.image.read_bytes()


def test_rendered_pages_are_removed_if_the_export_fails(
    sources: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finished work stays, so that the next run can resume; it renders the pages anew for its key."""
    found: list[int] = []

    def stop(*_: object) -> None:
        found.append(len(list((directory_of(tmp_path / "b") / IMAGES).iterdir())))
        raise KeyboardInterrupt

    monkeypatch.setattr(layerwise, "quantize_tower", stop)
    with pytest.raises(KeyboardInterrupt):
        export(export_plan(REFERENCE, tmp_path / "b", precision="int4", calib=sources))
    assert found == [4]
    assert [path.name for path in directory_of(tmp_path / "b").iterdir()] == ["vision"]


def test_reading_stops_at_the_first_page_that_cannot_be_read(tmp_path: Path) -> None:
    """And starts again on the next use, instead of continuing with some pages."""
    pages, calls = select(book(tmp_path / "a.tif", 2)), list[int]()
    original = Pages.questions

    class Broken(Pages):
        def questions(self, *arguments: Any, **options: Any) -> Any:
            calls.append(1)
            yield next(original(self, *arguments, **options))
            raise KeyboardInterrupt

    stored = StoredPages(Broken(pages.sources, pages.chosen), tmp_path / "images")
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            list(stored.questions(ignore))
    assert len(calls) == 2
