"""Markdown, HTML and CSV made from the file of answers."""

from __future__ import annotations

import csv
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from qvl_runtime.errors import PromptError
from qvl_runtime.read.formats import columns_of, journal_path, write_documents, write_table


def journal(tmp_path: Path, *records: dict[str, Any]) -> Path:
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def record(file: Path | str, page: int, answer: str, **more: Any) -> dict[str, Any]:
    return {"file": str(file), "page": page, "answer": answer, **more}


def test_markdown_has_the_pages_of_a_document_in_order(tmp_path: Path) -> None:
    scans = tmp_path / "in"
    answers = journal(
        tmp_path,
        record(scans / "a.pdf", 2, "```markdown\n# Two\n```"),
        record(scans / "deep" / "b.png", 1, "B"),
        {"file": str(scans / "a.pdf"), "page": 3, "error": "damaged --> here"},
        record(scans / "a.pdf", 1, "# One"),
    )
    assert write_documents(answers, tmp_path, "md") == 2
    expected = "# One\n\n---\n\n# Two\n\n---\n\n<!-- not read: damaged - -> here -->\n"
    assert (tmp_path / "a.pdf.md").read_text("utf-8") == expected
    assert (tmp_path / "deep" / "b.png.md").read_text("utf-8") == "B\n"
    assert not [*tmp_path.rglob(".*")]


def test_html_is_one_page_without_scripts(tmp_path: Path) -> None:
    page = '```html\n<html><body class="x">\n<p data-bbox="1 2 3 4">Ünder</p>\n</body></html>\n```'
    answers = journal(tmp_path, record("<a>.png", 1, page), record("<a>.png", 2, "<p>2</p>"))
    write_documents(answers, tmp_path, "html")
    text = (tmp_path / "<a>.png.html").read_text("utf-8")
    assert text.count("<body>") == text.count("</html>") == 1 and "default-src 'none'" in text
    assert '<section data-page="1">\n<p data-bbox="1 2 3 4">Ünder</p>\n</section>' in text
    assert "<title>&lt;a&gt;.png</title>" in text and '<section data-page="2">' in text


def test_a_table_has_a_column_per_field(tmp_path: Path) -> None:
    columns = columns_of({"type": "object", "properties": {"total": {"type": "number"}, "lines": {"type": "array"}}})
    answers = journal(
        tmp_path,
        record("a.png", 1, "", json={"total": 1.5, "lines": ["x", 'ü"']}),
        record("b.png", 1, "", json=None),
        {"file": "c.png", "page": None, "error": "damaged"},
    )
    write_table(answers, tmp_path / "t.csv", columns)
    with (tmp_path / "t.csv").open(encoding="utf-8", newline="") as file:
        assert [*csv.reader(file)] == [
            ["file", "page", "total", "lines", "error"],
            ["a.png", "1", "1.5", '["x", "ü\\""]', ""],
            ["b.png", "1", "", "", "no JSON object"],
            ["c.png", "", "", "", "damaged"],
        ]


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ('=HYPERLINK("http://x")', '\'=HYPERLINK("http://x")'),
        *((text, f"'{text}") for text in ("@SUM(1)", "+1-cmd", "-2+3", "\t=1", "+A1")),
        *((text, text) for text in ("-5.20", "+1", "-1,234.50", "-3 %", "-", "1=1", "", "'=1")),
        (-5, "-5"),
    ],
)
def test_texts_of_pages_are_no_formulas(tmp_path: Path, value: Any, cell: str) -> None:
    answers = journal(tmp_path, record("=a.png", 1, "", json={"of": value}))
    write_table(answers, tmp_path / "t.csv", ["of"])
    with (tmp_path / "t.csv").open(encoding="utf-8", newline="") as file:
        assert [*csv.reader(file)][1] == ["'=a.png", "1", cell, ""]


def test_an_answer_that_was_cut_does_not_reach_into_the_next_page(tmp_path: Path) -> None:
    for answer in ("<p>one <b cla", "<table><tr><td>x", "<!-- open", "<style>", '<p title="open'):
        answers = journal(tmp_path, record("a.png", 1, answer), record("a.png", 2, "<p>2</p>"))
        write_documents(answers, tmp_path, "html")
        pages = Sections()
        pages.feed((tmp_path / "a.png.html").read_text("utf-8"))
        assert pages.depths == [("1", ["html", "body"]), ("2", ["html", "body"])], answer


class Sections(HTMLParser):
    """What each page is within."""

    def __init__(self) -> None:
        super().__init__()
        self.depths, self._open = list[tuple[str | None, list[str]]](), list[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "section":
            self.depths.append((dict(attrs)["data-page"], [*self._open]))
        if tag != "meta":
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag


def test_html_neither_sends_nor_goes_anywhere(tmp_path: Path) -> None:
    write_documents(journal(tmp_path, record("a.png", 1, "<p>1</p>")), tmp_path, "html")
    text = (tmp_path / "a.png.html").read_text("utf-8")
    assert "form-action 'none'; base-uri 'none'" in text


@pytest.mark.parametrize("schema", [None, {}, [], {"type": "array"}, {"properties": {}}, {"properties": 1}])
def test_a_table_needs_fields(schema: Any) -> None:
    with pytest.raises(PromptError, match="--format csv needs a --json-schema"):
        columns_of(schema)


def test_the_file_of_answers_has_a_place_for_every_format() -> None:
    out = Path("x") / "y.z"
    assert [journal_path(out, form).as_posix() for form in ("jsonl", "csv", "md", "html")] == [
        *("x/y.z", "x/y.z.jsonl"),
        *("x/y.z/answers.jsonl", "x/y.z/answers.jsonl"),
    ]


def test_a_file_that_was_named_in_two_ways_is_one_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    answers = journal(
        tmp_path,
        record("a.pdf", 1, "One", sha256="aa"),
        record(tmp_path / "a.pdf", 2, "Two", sha256="aa"),
        record("./b.png", 1, "B", sha256="bb"),
    )
    assert write_documents(answers, tmp_path / "out", "md") == 2
    assert (tmp_path / "out" / "a.pdf.md").read_text("utf-8") == "One\n\n---\n\nTwo\n"


def test_what_a_file_had_before_it_changed_is_left_out(tmp_path: Path) -> None:
    """Three pages of the old content, two of the new; a line of a file of requests changed, another did not."""
    requests = [{"file": "r.jsonl", "line": line, "sha256": sha, "answer": sha} for line, sha in ((1, "x"), (2, "y"))]
    answers = journal(
        tmp_path,
        *(record("a.pdf", page, f"old {page}", sha256="old", json={"n": page}) for page in (1, 2, 3)),
        *(record("a.pdf", page, f"new {page}", sha256="new", json={"n": page + 10}) for page in (1, 2)),
        *requests,
        {"file": "r.jsonl", "line": 2, "sha256": "z", "answer": "z"},
    )
    write_documents(answers, tmp_path / "out", "md")
    assert (tmp_path / "out" / "a.pdf.md").read_text("utf-8") == "new 1\n\n---\n\nnew 2\n"
    assert (tmp_path / "out" / "r.jsonl.md").read_text("utf-8") == "x\n\n---\n\nz\n"
    write_table(answers, tmp_path / "t.csv", ["n"])
    with (tmp_path / "t.csv").open(encoding="utf-8", newline="") as file:
        assert [row[:3] for row in csv.reader(file)][1:] == [
            *(["a.pdf", "1", "11"], ["a.pdf", "2", "12"]),
            *(["r.jsonl", "1", ""], ["r.jsonl", "2", ""]),
        ]
