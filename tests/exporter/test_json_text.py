"""JSON of untrusted files, in any Unicode encoding."""

from __future__ import annotations

import pytest

from qvl_export.checkpoint import json_text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "utf-32-be"])
def test_every_unicode_encoding_is_read(encoding: str) -> None:
    assert json_text.parse('{"a": ["扫", 1.5, null]}'.encode(encoding)) == {"a": ["扫", 1.5, None]}


@pytest.mark.parametrize("raw", [b'"\\ud83d"', b'{"\\UD83d": 1}'.replace(b"U", b"u"), b"{", b"\xff\xff\xff", b""])
def test_lone_surrogates_and_malformed_texts_are_refused(raw: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the callers add the file's name
        json_text.parse(raw)


def test_pairs_of_surrogates_are_characters() -> None:
    assert json_text.parse(b'"\\ud83d\\ude00"') == "😀"


def test_pairs_build_objects() -> None:
    assert json_text.parse(b'{"a": 1, "a": 2}', list) == [("a", 1), ("a", 2)]
