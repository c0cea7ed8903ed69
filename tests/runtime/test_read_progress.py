"""What is printed while documents are read."""

from __future__ import annotations

import pytest

from qvl_runtime.read.progress import LINE_SECONDS, Progress


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_line_has_speed_and_the_time_left() -> None:
    clock = Clock()
    progress = Progress(4, clock=clock)
    progress.opened(10)
    progress.skipped()
    clock.now = 60
    for failed in (False, True, False):
        progress.done(failed)
    assert progress.line() == "4 pages, file 1 of 4, 3.0 pages per minute, 12 min left, 1 failed"
    progress.opened(2_000)
    assert "h " in progress.line()


def test_without_an_answer_there_is_no_speed_yet() -> None:
    progress = Progress(2, clock=Clock())
    progress.opened(1)
    progress.skipped()
    assert progress.line() == "1 page, file 1 of 2, 0.0 pages per minute"


def test_lines_are_rare_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    for quiet in (False, True):
        progress = Progress(1, quiet, clock)
        progress.opened(3)
        progress.done(False)
        clock.now += LINE_SECONDS
        progress.done(False)
        progress.done(False)
        progress.end()
        assert capsys.readouterr().err.count("\n") == (not quiet)
