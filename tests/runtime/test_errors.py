"""Errors are one line: where, what, and how to fix it."""

from __future__ import annotations

import pytest

from qvl_runtime.errors import BundleError, EngineError, InstallError, MediaError, PromptError, QvlError


@pytest.mark.parametrize("kind", [BundleError, MediaError, PromptError, EngineError, InstallError])
def test_every_error_is_one_line_of_three_parts(kind: type[QvlError]) -> None:
    error = kind("is broken", where="a.png", fix="get another")
    assert isinstance(error, QvlError) and str(error) == "a.png: is broken (get another)"
    assert (error.what, error.where, error.fix) == ("is broken", "a.png", "get another")
    assert str(kind("is broken")) == "is broken"


def test_what_could_spoil_a_terminal_is_escaped() -> None:
    text = str(QvlError("a\nb\x1b[2J", where="c\rd"))
    assert text.isprintable()
