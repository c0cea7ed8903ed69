"""Pages of PDFs: drawn when they are wanted, bounded, and chosen by their numbers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qvl_runtime.errors import MediaError, PromptError
from qvl_runtime.media.images import load_image
from qvl_runtime.pdf import PDF_MAX_PIXELS, Pdf, PdfPage, parse_pages, pdf_pages
from tests.pdfs import encrypt, pdf_source, text_pdf
from tests.runtime.test_images import pixels

THREADS = """
import sys, threading, time
from qvl_runtime.pdf import Pdf
end = time.monotonic() + 1.0
def read(path):
    while time.monotonic() < end:
        with Pdf(path) as pdf:
            pdf.draw(0), pdf.text(0)
        Pdf(path).draw(0)
threads = [threading.Thread(target=read, args=(path,)) for path in sys.argv[1:]]
[thread.start() for thread in threads], [thread.join() for thread in threads]
"""


def test_threads_that_read_pdfs_take_turns(tmp_path: Path) -> None:
    """pdfium is not thread-safe and would end the process."""
    paths = [text_pdf(tmp_path / f"{index}.pdf", [["Total: 12", "Paid"]]) for index in range(2)]
    assert subprocess.run([sys.executable, "-c", THREADS, *map(str, paths)], check=False).returncode == 0


@pytest.mark.parametrize(
    ("pages", "colors"), [(None, [0, 1, 2]), ("2", [1]), ("1-2", [0, 1]), ("3,1", [2, 0]), (" 2 - 3 ,1", [1, 2, 0])]
)
def test_pdf_pages(pdf: Path, pages: str | None, colors: list[int]) -> None:
    found = pdf_pages(pdf, pages, dpi=144)
    assert [int(pixels(page.draw())[50, 50].argmax()) for page in found] == colors
    assert all(page.size == page.draw().size == (144, 288) for page in found)
    assert [load_image(page).size for page in found] == [page.size for page in found]


def page_pdf(path: Path, box: str) -> Path:
    """An empty page of a size."""
    page = f"<</Type /Page /Parent 2 0 R /MediaBox {box}>>"
    path.write_bytes(pdf_source(["<</Type /Catalog /Pages 2 0 R>>", "<</Type /Pages /Kids [3 0 R] /Count 1>>", page]))
    return path


def test_a_turned_pdf_page_knows_its_size(tmp_path: Path) -> None:
    (found,) = pdf_pages(page_pdf(tmp_path / "turned.pdf", "[0 0 100 50.3] /Rotate 90"), dpi=150)
    assert found.size == found.draw().size == (105, 209)


def test_pdf_pages_are_drawn_when_they_are_wanted(pdf: Path, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not before the prompt is known to fit; and a second question about the same file draws nothing."""
    reader = model("qwen2_5_vl", "small", "fp32")
    draw, drawn = PdfPage.draw, []
    monkeypatch.setattr(PdfPage, "draw", lambda page: (drawn.append(page.index), draw(page))[1])
    messages = [{"role": "user", "content": [{"type": "image", "image": page} for page in pdf_pages(pdf)]}]
    with pytest.raises(PromptError, match="do not fit"):
        reader.generate(messages, max_new_tokens=reader.manifest.llm.max_length - 30)
    assert drawn == []
    first = reader.generate(messages, max_new_tokens=4)
    assert drawn == [0, 1, 2]
    again = [{"role": "user", "content": [{"type": "image", "image": page} for page in pdf_pages(pdf)]}]
    assert (reader.generate(again, max_new_tokens=4), drawn) == (first, [0, 1, 2])
    pictures = [{"type": "image", "image": page.draw()} for page in pdf_pages(pdf)]
    assert reader.generate([{"role": "user", "content": pictures}], max_new_tokens=4) == first


def test_pdf_pages_are_bounded(pdf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qvl_runtime.pdf.PDF_MAX_PIXELS", 72 * 144 // 4)
    assert pdf_pages(pdf)[0].draw().size == (36, 72)


def test_a_pdf_page_as_thin_as_a_hair_is_bounded_too(tmp_path: Path) -> None:
    (page,) = pdf_pages(page_pdf(tmp_path / "hair.pdf", "[0 0 2000000000 0.5]"))
    assert page.size[0] * page.size[1] <= PDF_MAX_PIXELS + 1


def test_a_pdf_page_without_end_is_refused(tmp_path: Path) -> None:
    side = "9" * 45 + ".0"  # infinite as float32
    with pytest.raises(MediaError, match=r"endless\.pdf: page 1 has no size: inf"):
        pdf_pages(page_pdf(tmp_path / "endless.pdf", f"[0 0 {side} {side}]"))


def test_filled_in_form_fields_are_drawn(tmp_path: Path) -> None:
    stream = "0 0 0 rg 0 0 100 100 re f"
    form = tmp_path / "form.pdf"
    form.write_bytes(
        pdf_source(
            [
                "<</Type /Catalog /Pages 2 0 R /AcroForm <</Fields [4 0 R]>>>>",
                "<</Type /Pages /Kids [3 0 R] /Count 1>>",
                "<</Type /Page /Parent 2 0 R /MediaBox [0 0 100 100] /Annots [4 0 R]>>",
                "<</Type /Annot /Subtype /Widget /FT /Tx /T (name) /V (x) /F 4 /Rect [0 0 100 100] /AP <</N 5 0 R>>>>",
                f"<</Type /XObject /Subtype /Form /BBox [0 0 100 100] /Length {len(stream)}>>\n"
                f"stream\n{stream}\nendstream",
            ]
        )
    )
    assert pixels(pdf_pages(form)[0].draw())[100, 100].max() < 128


def test_pdfs_that_cannot_be_read(tmp_path: Path, pdf: Path) -> None:
    garbage = tmp_path / "garbage.pdf"
    garbage.write_bytes(b"%PDF-1.7 and nothing more")
    with pytest.raises(MediaError, match=r"garbage\.pdf: cannot be read as a PDF"):
        list(pdf_pages(garbage))
    with pytest.raises(MediaError, match=r"missing\.pdf: no such file"):
        list(pdf_pages(tmp_path / "missing.pdf"))
    encrypted = tmp_path / "secret.pdf"
    encrypted.write_bytes(encrypt(pdf.read_bytes()))
    with pytest.raises(MediaError, match=r"secret\.pdf: cannot be read as a PDF.*password"):
        list(pdf_pages(encrypted))


def test_text_of_pdf_pages(tmp_path: Path, pdf: Path) -> None:
    with Pdf(text_pdf(tmp_path / "two.pdf", [["Total: 12", "Thank you"], []])) as two:
        assert len(two) == 2 and two.text(0).split() == ["Total:", "12", "Thank", "you"] and two.text(1) == ""
        with pytest.raises(MediaError, match=r"two\.pdf: page 3 cannot be drawn"):
            two.draw(2)
    with Pdf(pdf) as pictures:
        assert pictures.text(0) == ""


@pytest.mark.parametrize(
    ("text", "indices"),
    [
        (None, [0, 1, 2, 3, 4]),
        ("1", [0]),
        ("5", [4]),
        ("1-5", [0, 1, 2, 3, 4]),
        ("4,1-2,4", [3, 0, 1, 3]),
        ("2-2", [1]),
    ],
)
def test_parse_pages(text: str | None, indices: list[int]) -> None:
    assert parse_pages(text, 5, "x.pdf") == indices


@pytest.mark.parametrize("text", ["", ",", "a", "1,", "-2", "1--2", "1-2-3", "²", "1.5", "9" * 5000, "+1"])
def test_pages_that_are_not_numbers(text: str) -> None:
    with pytest.raises(MediaError, match=r"x\.pdf: pages .*write"):
        parse_pages(text, 5, "x.pdf")


@pytest.mark.parametrize("text", ["0", "6", "3-6", "4-2", "1,0", "1-999999999"])
def test_pages_outside_the_document(text: str) -> None:
    with pytest.raises(MediaError, match=r"x\.pdf: (has 5 pages, got|there is no page 0|page range 4-2 is reversed)"):
        parse_pages(text, 5, "x.pdf")
