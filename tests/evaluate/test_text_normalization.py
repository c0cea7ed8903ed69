"""Texts before they are compared."""

from __future__ import annotations

from qvl_export.evaluate.metrics.text_normalization import collapse_whitespace, normalize


def test_composition_and_ends_do_not_count() -> None:
    assert normalize(" Mu\u0308ller\n") == "M\u00fcller"
    assert normalize("a  b\nc") == "a  b\nc"


def test_runs_of_whitespace_are_one_space() -> None:
    assert collapse_whitespace(" a \n\t b\u3000c\u00a0d ") == "a b c d" and collapse_whitespace(" \n") == ""
