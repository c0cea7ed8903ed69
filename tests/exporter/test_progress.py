"""Progress with and without a terminal."""

from __future__ import annotations

import re

import pytest

from qvl_export.cli.progress import ItemProgress, ProgressLines


def test_progress_without_a_bar_says_its_stages_alone(capsys: pytest.CaptureFixture[str]) -> None:
    progress = ItemProgress(quiet=False)
    progress.stage("answering", 3)
    progress.stop()
    assert capsys.readouterr() == ("", "answering\n")


def test_progress_without_a_terminal_is_a_line_per_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    progress = ItemProgress(quiet=False)
    progress.stage("int8: 40 of 40 items to answer", 40)
    for _ in range(40):
        progress.advance(1)
    progress.stage("comparing")
    progress.advance(1)
    progress.stop()
    first, *lines, last = capsys.readouterr().err.splitlines()
    assert (first, last) == ("int8: 40 of 40 items to answer", "comparing")
    assert [line.split(",")[0] for line in lines] == [f"  {done} of 40" for done in range(4, 41, 4)]
    assert re.fullmatch(r"  4 of 40, \d+ s left", lines[0]) and lines[-1] == "  40 of 40"


def test_slow_items_are_reported_every_half_minute() -> None:
    times = iter([0.0, 10.0, 31.0, 35.0])
    lines = ProgressLines(1000, lambda: next(times))
    assert [lines.after(1) for _ in range(3)] == ["", "  2 of 1000, 15469 s left", ""]


def test_quiet_progress_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    progress = ItemProgress(quiet=True)
    progress.stage("answering", 1)
    progress.advance(1)
    progress.stop()
    assert capsys.readouterr() == ("", "")
