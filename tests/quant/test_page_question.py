"""Questions about pages: their hash, and the names of their files."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from qvl_export.quant.calibration_data.page_question import Origin, Question, utf8_name

ORIGIN = Origin(Path("/somewhere/a.pdf"), "scans/a.pdf", "0" * 64, page=2)
QUESTION = Question(ORIGIN, ORIGIN.file, "Read.", ("one", "two"))


def test_the_hash_covers_what_calibration_uses_and_nothing_else() -> None:
    same = replace(
        QUESTION, origin=replace(ORIGIN, file=Path("b.pdf"), name="b"), answers=("one",), task="qa", kind="x"
    )
    assert same.digest == QUESTION.digest
    others = [
        replace(QUESTION, origin=replace(ORIGIN, sha256="1" * 64)),
        replace(QUESTION, origin=replace(ORIGIN, page=None)),
        replace(QUESTION, prompt="See."),
        replace(QUESTION, answers=("two",)),
        replace(QUESTION, answers=()),
    ]
    assert len({question.digest for question in (QUESTION, *others)}) == 6


def test_an_unknown_answer_is_empty_and_origins_name_their_page() -> None:
    assert replace(QUESTION, answers=()).answer == "" and QUESTION.answer == "one"
    assert str(ORIGIN) == f"{ORIGIN.file}: page 2" and str(replace(ORIGIN, page=None)) == str(ORIGIN.file)


def test_names_of_any_bytes_are_valid_text() -> None:
    assert utf8_name(os.fsdecode(b"a\xff.png")) == "a\ufffd.png" and utf8_name("扫.png") == "扫.png"
