"""`calib build`: a set one can look through, the same twice, that is calibrated on as its sources would be."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from qvl_export.common.labels import read_labels
from qvl_export.errors import ExportError, OutputError
from qvl_export.quant.calibration_data.build_set import BuiltSet, SetPlan, build
from qvl_export.quant.calibration_data.selection import Record, select
from qvl_runtime.errors import MediaError
from tests.exporter.test_broken_inputs import listing
from tests.heldout import HELDOUT
from tests.pdfs import text_pdf
from tests.quant.pages import book, scan


def made(out: Path, *sources: Path, **options: Any) -> tuple[BuiltSet, list[dict[str, Any]], dict[str, Any]]:
    """What the builder says, the lines of labels, the manifest."""
    built = build(SetPlan(sources, out, **options), lambda _: None)
    lines = [json.loads(line) for line in (out / "labels.jsonl").read_text("utf-8").splitlines()]
    return built, lines, json.loads((out / "manifest.json").read_text("utf-8"))


def test_a_set_of_pdfs_scans_and_books(tmp_path: Path) -> None:
    sources = [text_pdf(tmp_path / "bill.pdf", [["Total: 12"], [], ["Thank you"]]), scan(tmp_path / "scan.jpg")]
    built, lines, manifest = made(tmp_path / "set", *sources, book(tmp_path / "book.tif", 2))
    assert (built.pages, built.questions, built.answered) == (5, 5, 2)
    assert built.left_out == [f"{sources[0]}: page 2: is blank, left out"]
    names = ["0001_bill_001.png", "0002_bill_003.png", "0003_scan.jpg", "0004_book_001.png", "0005_book_002.png"]
    assert [line["image"] for line in lines] == names == list(manifest["source"])
    assert lines[0] == {
        "image": names[0],
        "prompt": "Read all the text in the image.",
        "task": "ocr",
        "answers": ["Total: 12"],
        "kind": "document",
    }
    assert [line["answers"] for line in lines[1:]] == [["Thank you"], [], [], []]
    digest = hashlib.sha256(sources[0].read_bytes()).hexdigest()
    assert manifest["source"][names[1]] == {"file": "bill.pdf", "page": 3, "sha256": digest}


def test_files_match_the_manifest(tmp_path: Path) -> None:
    out = tmp_path / "set"
    _, _, manifest = made(out, text_pdf(tmp_path / "a.pdf", [["one"]]), scan(tmp_path / "b.png"))
    files = {name: digest for name, digest in listing(out).items() if name != "manifest.json"}
    assert files == manifest["sha256"] and manifest["arguments"] == {"samples": None, "dpi": 150}
    assert str(tmp_path) not in (out / "manifest.json").read_text() + (out / "labels.jsonl").read_text()


def test_pixels_are_those_of_the_source(tmp_path: Path) -> None:
    """JPEG and PNG to the byte; other formats without loss; a page of 200 × 100 points at the given resolution."""
    jpeg, bitmap = scan(tmp_path / "a.jpg", 200), scan(tmp_path / "b.bmp", 100)
    made(tmp_path / "set", jpeg, bitmap, text_pdf(tmp_path / "c.pdf", [["one"]]), dpi=72)
    assert (tmp_path / "set" / "0001_a.jpg").read_bytes() == jpeg.read_bytes()
    with Image.open(tmp_path / "set" / "0002_b.png") as ours, Image.open(bitmap) as theirs:
        assert ours.tobytes() == theirs.convert("RGB").tobytes()
    with Image.open(tmp_path / "set" / "0003_c_001.png") as page:
        assert (page.size, page.mode) == ((200, 100), "L")


def test_the_same_page_is_kept_once_and_reported(tmp_path: Path) -> None:
    first = scan(tmp_path / "a" / "first.png")
    again = scan(tmp_path / "b" / "again.png")
    reported: list[str] = []
    built = build(SetPlan([first, again, scan(tmp_path / "c.png", 9)], tmp_path / "set"), reported.append)
    assert (built.pages, built.duplicates) == (2, [str(again)])
    assert f"{again}: is the same as first.png and is kept once" in reported


def test_other_questions_about_a_page_share_its_image(tmp_path: Path) -> None:
    """The held-out set asks two or three questions per page."""
    built, lines, _ = made(tmp_path / "set", HELDOUT, samples=1196)
    originals = [json.loads(line) for line in (HELDOUT / "labels.jsonl").read_text("utf-8").splitlines()]
    assert (built.pages, built.questions, built.answered, built.duplicates) == (400, 1196, 1196, [])
    named = [{**line, "image": line["image"].split("_", 1)[1]} for line in lines]
    assert named == originals


def test_samples_bound_the_set(tmp_path: Path) -> None:
    pdf = text_pdf(tmp_path / "long.pdf", [[f"page {number}"] for number in range(9)])
    _, lines, _ = made(tmp_path / "set", pdf, scan(tmp_path / "a.png"), samples=4)
    assert [line["image"] for line in lines] == [
        "0001_long_001.png", "0002_long_005.png", "0003_long_009.png", "0004_a.png"
    ]  # fmt: skip


def test_the_same_sources_make_the_same_set(tmp_path: Path) -> None:
    sources = text_pdf(tmp_path / "a.pdf", [["one"], ["two"]]), scan(tmp_path / "b.png")
    made(tmp_path / "first", *sources)
    made(tmp_path / "second", *sources)
    assert listing(tmp_path / "first") == listing(tmp_path / "second")


def test_its_hash_is_what_a_bundle_records(tmp_path: Path) -> None:
    built, _, _ = made(tmp_path / "set", text_pdf(tmp_path / "a.pdf", [["one"], ["two"]]))
    record = Record(["set"])
    for question in select(tmp_path / "set").questions(lambda _: None):
        record.add(question)
    assert record.calibration().sha256 == built.sha256


def test_force_replaces_a_set_and_nothing_else(tmp_path: Path) -> None:
    page = scan(tmp_path / "a.png")
    made(tmp_path / "set", page)
    with pytest.raises(OutputError, match=r"set: already exists \(give --force"):
        made(tmp_path / "set", page)
    made(tmp_path / "set", tmp_path / "set", scan(tmp_path / "b.png", 9), force=True)  # of itself and one more
    assert len(list((tmp_path / "set").glob("*.png"))) == 2
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "labels.jsonl").write_text("years of work")
    with pytest.raises(OutputError, match="thesis: exists and is not a calibration set"):
        made(tmp_path / "thesis", page, force=True)


def test_a_failed_build_keeps_what_was_there(tmp_path: Path) -> None:
    good = scan(tmp_path / "a.png")
    made(tmp_path / "set", good)
    torn = scan(tmp_path / "torn.jpg", 99)
    torn.write_bytes(torn.read_bytes()[:-200])
    before = listing(tmp_path)
    with pytest.raises(MediaError, match=r"torn\.jpg: cannot be read: .*truncated"):
        made(tmp_path / "set", good, torn, force=True)
    assert listing(tmp_path) == before


def test_a_labelled_image_is_decoded_before_it_is_copied(tmp_path: Path) -> None:
    torn = scan(tmp_path / "mine" / "torn.jpg", 99)
    torn.write_bytes(torn.read_bytes()[:-200])
    (tmp_path / "mine" / "labels.jsonl").write_text('{"image": "torn.jpg", "prompt": "Read.", "answers": []}\n')
    with pytest.raises(MediaError, match=r"torn\.jpg: cannot be read: .*truncated"):
        made(tmp_path / "set", tmp_path / "mine")


def test_names_of_any_bytes_and_length(tmp_path: Path) -> None:
    page = scan(tmp_path / "a.png")
    page.rename(tmp_path / ("扫" * 80 + "\udcff.png"))
    _, lines, manifest = made(tmp_path / "set", tmp_path / ("扫" * 80 + "\udcff.png"))
    assert lines[0]["image"] == f"0001_{'扫' * 60}.png"
    assert manifest["source"][lines[0]["image"]]["file"].endswith("\ufffd.png")


def test_labels_as_windows_writes_them(tmp_path: Path) -> None:
    """A byte order mark, and backslashes in paths."""
    (tmp_path / "may").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "may" / "p.png")
    line = json.dumps({"image": "may\\p.png", "prompt": "Read.", "answers": ["x"]})
    (tmp_path / "labels.jsonl").write_text(f"\ufeff{line}\n", "utf-8")
    assert [label.image for _, label in read_labels(tmp_path)] == ["may/p.png"]
    (tmp_path / "labels.jsonl").write_text(line.replace("may", "C:"))
    with pytest.raises(ExportError, match="is not inside the set"):
        list(read_labels(tmp_path))
