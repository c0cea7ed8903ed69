"""Output for terminals and pipes: JSON in every encoding, control characters escaped, readers that go away."""

from __future__ import annotations

import io
import json
import os
import sys

import pytest

from qvl_runtime.common.standard_streams import OutputError, print_json, put, report_output_error, say, show

VALUE = {"扫": [1.5, float("nan"), float("-inf"), ("é", None, True)], "\x1b[2J": "a\nb"}
SHOWN = {"扫": [1.5, None, None, ["é", None, True]], "\x1b[2J": "a\nb"}


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252"])
@pytest.mark.parametrize("indent", [None, 2])
def test_json_means_the_same_in_every_encoding(
    encoding: str, indent: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding))
    print_json(VALUE, indent)
    text = raw.getvalue().decode(encoding)
    assert json.loads(text) == SHOWN and "\x1b" not in text


def test_texts_are_shown_without_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    show("a\x1b[2Jb")
    show({"a": 1})
    say("one\ntwo")
    out, errors = capsys.readouterr()
    assert "\x1b" not in out and out.endswith('{"a": 1}\n') and errors.count("\n") == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX pipes")
def test_a_reader_that_goes_away_is_not_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as gone:
        monkeypatch.setattr(sys, "stdout", gone)
        with pytest.raises(OutputError) as caught:
            put("text")
        assert report_output_error(caught.value) == 0 and capsys.readouterr().err == ""


def test_other_failures_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    error = OutputError()
    error.__cause__ = OSError("disk full")
    assert report_output_error(error) == 2
    assert capsys.readouterr().err == "error: the output cannot be written: disk full\n"
