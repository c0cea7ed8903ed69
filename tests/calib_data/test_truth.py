"""Sums on receipts and invoices, numerals, tables as HTML, lines of Chinese, wrapped paragraphs."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from random import Random

import pytest

from calib_data.generator import invoice, receipt
from calib_data.generator.grid import Cell, html, place
from calib_data.generator.page import Page, Span
from calib_data.generator.poems import POEMS
from calib_data.generator.prompts import TASKS, ask
from calib_data.generator.sheet import CLOSING, Pen, wrap
from calib_data.generator.words import amount, capital_amount

from .helpers import cents, need_fonts, pages


class Cells(HTMLParser):
    """The texts of a table's cells, row by row, and how many columns each row covers by itself."""

    def __init__(self, table: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.feed(table)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag == "td":
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        self.rows[-1][-1] += data


def test_receipt_sums() -> None:
    for page in pages("receipt", 30):
        subtotal, tax, total, cash, change = (cents(page.fields[key].text) for key in receipt.KEYS[page.language][3:])
        heads = receipt.HEADS[page.language]
        texts = [[span.text for span in line] for line in page.lines]
        first = texts.index(list(heads)) + 1
        items = [line for line in texts[first:] if len(line) == 3]
        assert sum(cents(line[2]) for line in items) == subtotal
        assert subtotal + tax == total and cash - total == change >= 0


def test_invoice_sums() -> None:
    for page in pages("invoice", 30):
        subtotal, tax, total = (cents(page.fields[key].text) for key in invoice.SUMS[page.language])
        rows = Cells(page.tables[0]).rows[1:]
        assert all(int(count) * cents(price) == cents(amount) for _, count, price, amount in rows)
        assert sum(cents(row[3]) for row in rows) == subtotal and subtotal + tax == total
        if page.language == "zh":
            assert page.fields[invoice.CAPITALS].text == capital_amount(total)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5, "伍分"),
        (100, "壹元整"),
        (1050, "壹拾元伍角整"),
        (100005, "壹仟元零伍分"),
        (100500, "壹仟零伍元整"),
        (10000000, "壹拾万元整"),
        (1050000, "壹万零伍佰元整"),
        (2621566, "贰万陆仟贰佰壹拾伍元陆角陆分"),
    ],
)
def test_capital_amounts(value: int, text: str) -> None:
    assert capital_amount(value) == text


def test_amounts() -> None:
    assert [amount(value) for value in (5, 100, 123456)] == ["0.05", "1.00", "1,234.56"]


@pytest.mark.parametrize("kind", ["table", "invoice"])
def test_table_texts_are_drawn_texts(kind: str) -> None:
    for page in pages(kind, 20):
        drawn = [span.text for line in page.lines for span in line]
        cells = [text for row in Cells(page.tables[0]).rows for text in row if text]
        assert all(text in drawn for text in cells) and len(cells) > 6


def test_table_rows_cover_all_columns() -> None:
    for page in pages("table", 20):
        spans = re.findall(r"<td(?: colspan=\"(\d)\")?(?: rowspan=\"(\d)\")?>", page.tables[0])
        area = sum(int(columns or 1) * int(rows or 1) for columns, rows in spans)
        columns = max(len(row) for row in Cells(page.tables[0]).rows)
        assert area == columns * len(Cells(page.tables[0]).rows)


def test_html_of_merged_and_escaped_cells() -> None:
    rows = [[Cell("A & B", columns=2), Cell("<c>", rows=2)], [Cell("1"), Cell("")]]
    first = '<tr><td colspan="2">A &amp; B</td><td rowspan="2">&lt;c&gt;</td></tr>'
    assert html(rows) == f"<table>{first}<tr><td>1</td><td></td></tr></table>"
    assert [(r, c) for r, c, _ in place(rows)] == [(0, 0), (0, 2), (1, 0), (1, 1)]


def test_spans_of_a_chinese_line_join_without_blanks_but_between_numbers() -> None:
    need_fonts("simple")
    line = tuple(Span(text, (0, 0, 1, 1)) for text in ("合计：", "办公椅", "2", "350.00"))
    image = pages("simple", 1)[0].image
    assert Page(image, "x", "zh", (line,)).text == "合计：办公椅2 350.00"
    assert Page(image, "x", "en", (line,)).text == "合计： 办公椅 2 350.00"


def test_poems_are_regular() -> None:
    for poem in POEMS:
        assert len(poem.couplets) == 2 and {len(couplet) for couplet in poem.couplets} <= {12, 16}
        assert all(couplet[len(couplet) // 2 - 1] == "，" and couplet[-1] == "。" for couplet in poem.couplets)


def test_columns_run_from_right_to_left() -> None:
    for page in pages("vertical"):
        lefts = [line[0].box[0] for line in page.lines]
        assert lefts == sorted(lefts, reverse=True)


def test_wrapped_lines_fit_and_lose_nothing() -> None:
    need_fonts("simple")
    pen, text = Pen("dejavu-sans", 16), "One two three four, five-six seven eight nine ten eleven twelve."
    lines = wrap(text, 120, pen)
    assert " ".join(lines) == text and max(map(pen.width, lines)) <= 120


def test_no_line_begins_with_closing_punctuation() -> None:
    for page in pages("letter", 20):
        assert not any(line[0].text[0] in CLOSING for line in page.lines)


@pytest.mark.parametrize("kind", ["simple", "receipt", "invoice", "form", "table", "vertical", "letter"])
def test_questions_have_answers_on_the_page(kind: str) -> None:
    for page in pages(kind, 6):
        questions = ask(page, Random(0))
        assert {question.task for question in questions} <= set(TASKS)
        for question in questions:
            (answer,) = question.answers
            assert answer
            if question.task == "qa":
                assert answer in page.text
