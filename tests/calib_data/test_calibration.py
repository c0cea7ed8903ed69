"""The committed calibration set: whole, licensed, mixed, disjoint from every other set, and reproducible."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from PIL import Image

from calib_data.generator import calibration
from calib_data.generator.calibration import PAGES_OF_DOCUMENT, PLANS, main, write_calibration
from calib_data.generator.dataset import make_page, make_questions
from calib_data.generator.kinds import kinds
from calib_data.generator.page import Span
from calib_data.generator.prompts import READ, TASKS
from calib_data.generator.real import DOCUMENTS, DocumentMissing, document_page, normal, orderly, require_document

from .helpers import SETS, need_fonts

FOLDER = SETS / "calibration"
OTHERS = ("heldout", "samples")
MANIFEST: dict[str, Any] = json.loads((FOLDER / "manifest.json").read_text("utf-8"))
LABELS: list[dict[str, Any]] = [
    json.loads(line) for line in (FOLDER / "labels.jsonl").read_text("utf-8").splitlines()
]  # fmt: skip
IMAGES = sorted(path.name for path in FOLDER.iterdir() if path.suffix in (".png", ".jpg"))


def need_documents() -> None:
    """Skip, naming the package, if the documents or their reader are not installed."""
    pytest.importorskip("pypdfium2")
    for document in DOCUMENTS:
        try:
            require_document(document)
        except DocumentMissing as missing:
            pytest.skip(str(missing))


def pixels(path: Path) -> str:
    with Image.open(path) as image:
        return hashlib.sha256(str(image.size).encode() + image.convert("RGB").tobytes()).hexdigest()


def test_size_is_bounded() -> None:
    sizes = [path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()]
    assert len(IMAGES) == 96 and sum(sizes) < 6_000_000 and max(sizes) < 200_000


def test_files_match_the_manifest() -> None:
    files = {path.relative_to(FOLDER).as_posix(): path for path in FOLDER.rglob("*") if path.is_file()}
    files.pop("manifest.json")
    assert {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()} == MANIFEST["sha256"]


def test_every_page_has_one_valid_question() -> None:
    assert sorted(line["image"] for line in LABELS) == IMAGES
    for line in LABELS:
        assert list(line) == ["image", "prompt", "task", "answers", "kind"]
        assert line["prompt"] and line["task"] in TASKS and line["kind"] in {*kinds(), "document"}
        (answer,) = line["answers"]
        assert 0 < len(answer) <= 2000 and answer.replace("\n", "").isprintable()
        assert "\ufffd" not in answer and "\xa0" not in answer


def test_answers_in_json_fit_their_pages() -> None:
    for line in LABELS:
        if line["task"] == "grounding":
            left, top, right, bottom = json.loads(line["answers"][0])["bbox_2d"]
            with Image.open(FOLDER / line["image"]) as image:
                assert 0 <= left < right <= image.width and 0 <= top < bottom <= image.height
        if line["task"] == "kie":
            asked = json.loads(line["prompt"][line["prompt"].index("{") :])
            assert list(json.loads(line["answers"][0])) == list(asked)


def test_kinds_tasks_and_damage_are_mixed() -> None:
    assert Counter(line["kind"] for line in LABELS) == {**dict.fromkeys(kinds(), 7), "document": 40}
    tasks = Counter(line["task"] for line in LABELS)
    assert set(tasks) == set(TASKS) and min(tasks.values()) >= 5
    assert 15 <= sum(image.endswith(".jpg") for image in IMAGES) <= 22


def test_both_languages_are_there() -> None:
    """By what is printed: as many real pages of each, and of generated ones at least a third."""
    real = Counter(line["prompt"] for line in LABELS if line["kind"] == "document")
    assert real == dict.fromkeys(READ.values(), PAGES_OF_DOCUMENT)
    generated = [not line["prompt"].isascii() for line in LABELS if line["kind"] != "document"]
    assert 19 <= sum(generated) <= len(generated) - 19


def test_every_stretch_of_labels_is_a_mixture() -> None:
    """So that a smaller number of pages still shows most kinds."""
    for count in (16, 32):
        some = [LABELS[round(i * 95 / (count - 1))] for i in range(count)]
        assert len({line["kind"] for line in some}) >= 6 and len({line["task"] for line in some}) >= 4


def test_every_page_has_its_source() -> None:
    sources = MANIFEST["source"]
    assert sorted(sources) == IMAGES
    generated = [source for source in sources.values() if "generator" in source]
    seeds = {plan.seed for plan in PLANS}
    assert len(generated) == 56 and {source["seed"] for source in generated} == seeds
    real = [source for source in sources.values() if "package" in source]
    known = {(document.package, document.version, document.language) for document in DOCUMENTS}
    assert {(source["package"], source["version"], source["language"]) for source in real} == known
    assert MANIFEST["arguments"] == json.loads(json.dumps([asdict(plan) for plan in PLANS]))


def test_no_seed_serves_two_sets() -> None:
    others = {json.loads((SETS / name / "manifest.json").read_text("utf-8"))["seed"] for name in OTHERS}
    assert not others & {plan.seed for plan in PLANS}


def test_no_page_is_in_another_set() -> None:
    """Not as a file, not as a picture, and not by its text."""
    own = {pixels(FOLDER / image) for image in IMAGES}
    assert len(own) == 96
    texts = {line["answers"][0] for line in LABELS if line["task"] == "ocr"}
    for name in OTHERS:
        images = [path for path in (SETS / name).iterdir() if path.suffix in (".png", ".jpg")]
        assert not own & {pixels(path) for path in images}
        digests = json.loads((SETS / name / "manifest.json").read_text("utf-8"))["sha256"]
        assert not set(digests.values()) & set(MANIFEST["sha256"].values())
        lines = map(json.loads, (SETS / name / "labels.jsonl").read_text("utf-8").splitlines())
        assert not texts & {line["answers"][0] for line in lines if line["task"] == "ocr" and line["kind"] == "simple"}


def test_licence_texts_are_there() -> None:
    for document in DOCUMENTS:
        text = (FOLDER / "LICENSES" / document.package).read_text("utf-8")
        assert document.licence in text and "Permission is hereby granted" in text and "Copyright" in text


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.seed)
def test_generator_still_makes_the_generated_pages(plan: Any) -> None:
    """Their questions and answers; pixels may differ with another FreeType."""
    lines = {line["image"].split(".")[0]: line for line in LABELS}
    for kind in plan.kinds:
        need_fonts(kind)
        index = Random(kind).randrange(plan.count)
        (question,) = make_questions(plan, kind, index, make_page(plan, kind, index))
        made = {**asdict(question), "answers": list(question.answers)}
        assert made.items() <= lines[f"{kind}_{index:04d}"].items()


def test_documents_still_say_the_same() -> None:
    need_documents()
    answers = {line["image"]: line["answers"][0] for line in LABELS}
    for document in DOCUMENTS:
        pages = [image for image in IMAGES if image.startswith(f"{document.package}_{document.language}_")]
        assert len(pages) == PAGES_OF_DOCUMENT
        for image in pages[::7]:
            page = document_page(document, MANIFEST["source"][image]["page"])
            assert page.text == answers[image] and page.kind == "document"


def test_lines_of_a_document_are_where_their_ink_is() -> None:
    need_documents()
    for document in DOCUMENTS:
        number = next(s["page"] for s in MANIFEST["source"].values() if s.get("file") == document.file)
        page = document_page(document, number)
        gray = page.image.convert("L")
        assert all(int(np.asarray(gray.crop(span.box)).min()) < 128 for (span,) in page.lines)


@pytest.mark.parametrize(
    ("layer", "printed"),
    [
        ("a\xa0b   c ", "a b c"),
        ("命 令 的 -j 选 项 会", "命令的 -j 选项会"),
        ("参见 变迁（Transition）。", "参见 变迁（Transition）。"),
        ("x\u037e e\u0301", "x; é"),
    ],
)
def test_text_layer_is_read_as_printed(layer: str, printed: str) -> None:
    assert normal(layer) == printed


def test_lines_out_of_order_are_noticed() -> None:
    first, second, beside = (Span("x", box) for box in ((0, 0, 9, 9), (0, 12, 9, 21), (12, 13, 20, 22)))
    assert orderly([first, second], (20, 30))
    assert not orderly([second, first], (20, 30)) and not orderly([second, beside], (20, 30))
    assert not orderly([first, second], (20, 20))


def test_another_version_of_a_document_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(calibration, "require_fonts", lambda names: None)
    monkeypatch.setattr(calibration, "DOCUMENTS", (replace(DOCUMENTS[0], package="absent-doc"),))
    assert main([str(tmp_path / "set")]) == 1
    assert "apt-get install absent-doc" in capsys.readouterr().err and not list(tmp_path.iterdir())
    with pytest.raises(FileExistsError):
        write_calibration(tmp_path)


@pytest.mark.slow
def test_set_is_reproducible(tmp_path: Path) -> None:
    """All of its labels, and all of its bytes if Pillow is the same."""
    need_documents()
    for kind in kinds():
        need_fonts(kind)
    write_calibration(tmp_path / "set")
    again = json.loads((tmp_path / "set" / "manifest.json").read_text("utf-8"))
    assert again["sha256"]["labels.jsonl"] == MANIFEST["sha256"]["labels.jsonl"]
    if all(again[name] == MANIFEST[name] for name in ("pillow", "pypdfium2")):
        assert again == MANIFEST
