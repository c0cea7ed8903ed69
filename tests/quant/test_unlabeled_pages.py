"""Pages without labels: their text layer, their language, and the prompt to read them."""

from __future__ import annotations

from pathlib import Path

import pytest

from qvl_export.quant.calibration_data.selection import select
from qvl_export.quant.calibration_data.unlabeled_pages import READING_PROMPTS, clean_text, prompt_language
from tests.pdfs import text_pdf
from tests.quant.pages import book, questions, scan


def test_the_text_layer_is_the_answer(tmp_path: Path) -> None:
    (page, picture) = questions(text_pdf(tmp_path / "a.pdf", [["Total:  12", "Thank you"]]), scan(tmp_path / "b.png"))
    assert (page.prompt, page.answers, str(page.origin)) == (
        READING_PROMPTS["en"],
        ("Total: 12\nThank you",),
        f"{tmp_path}/a.pdf: page 1",
    )
    assert (picture.prompt, picture.answers, picture.answer, picture.origin.page) == (
        READING_PROMPTS["en"],
        (),
        "",
        None,
    )


@pytest.mark.parametrize(
    ("layer", "text", "asked"),
    [
        ("a\r\n  b   c\r\n\r\n", "a\nb c", "en"),
        ("cali\ufffebrated", "cali-\nbrated", "en"),
        ("发票号码 12\r\n合计", "发票号码 12\n合计", "zh"),
        ("\x01\x02\x03 a", "", "en"),
        ("\ufffd\ufffd ab", "", "en"),
        ("", "", "en"),
    ],
)
def test_text_layers(layer: str, text: str, asked: str) -> None:
    assert clean_text(layer) == text and prompt_language(text) == asked


def test_pages_of_a_directory(tmp_path: Path) -> None:
    """Every page of images, TIFFs and PDFs in it and below; not what is hidden, not sets, not other files."""
    scan(tmp_path / "b.png")
    scan(tmp_path / "2024" / "C.JPG", 1)
    book(tmp_path / "a.tif", 2)
    text_pdf(tmp_path / "d.PDF", [["one"], ["two"]])
    scan(tmp_path / ".thumbnails" / "b.png")
    scan(tmp_path / "._b.png")
    (tmp_path / "notes.txt").write_text("mine")
    scan(tmp_path / "set" / "p.png")
    (tmp_path / "set" / "labels.jsonl").write_text("")
    name = tmp_path.name
    expected = ["2024/C.JPG", "a.tif 1", "a.tif 2", "b.png", "d.PDF 1", "d.PDF 2"]
    found = [question.origin for question in questions(tmp_path)]
    assert [f"{o.name} {o.page or ''}".strip() for o in found] == [f"{name}/{item}" for item in expected]


def test_blank_pages_are_reported_and_left_out(tmp_path: Path) -> None:
    pdf, reported = text_pdf(tmp_path / "a.pdf", [["one"], [], ["three"]]), list[str]()
    assert [question.answer for question in select(pdf).questions(reported.append)] == ["one", "three"]
    assert reported == [f"{pdf}: page 2: is blank, left out"]
