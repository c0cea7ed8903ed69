"""Text from outside is shown on one line, without control characters and without payloads."""

from __future__ import annotations

import json

import pytest

from qvl_runtime.errors import QvlError
from qvl_runtime.printable import first_line, one_line, printable, printable_json


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\tb\n票 😀", "a\tb\n票 😀"),
        ("\x1b[2J\x00\x7f", r"\x1b[2J\x00\x7f"),
        ("a\u202eb\u2066", r"a\u202eb\u2066"),
        ("\ud800", r"\ud800"),
    ],
)
def test_control_characters_are_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_escaped_json_means_the_same() -> None:
    value = {"a\u202e": "\x7f\u2028é"}
    text = printable_json(json.dumps(value, ensure_ascii=False))
    assert json.loads(text) == value and printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (" a\r\n  b ", "a b"),
        ("data:image/png;base64,AAAA: is bad", "data:image/png;…: is bad"),
        ("metadata:x,y", "metadata:x,y"),
    ],
)
def test_one_line_hides_payloads(text: str, shown: str) -> None:
    assert one_line(text) == shown


def test_errors_are_one_line() -> None:
    assert str(QvlError("is\nwrong", where="a\x1b", fix="mend it")) == r"a\x1b: is wrong (mend it)"
    assert str(QvlError("is wrong")) == "is wrong"


@pytest.mark.parametrize(
    ("error", "line"),
    [(ValueError("a\nb"), "a"), (ValueError("\n a"), "a"), (OSError(), "OSError"), (OSError(" "), "OSError")],
)
def test_the_first_line_of_an_exception(error: Exception, line: str) -> None:
    assert first_line(error) == line
