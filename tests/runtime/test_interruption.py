"""Work that is given up between its steps, in its own thread alone."""

from __future__ import annotations

import threading

import pytest

from qvl_runtime.common.interruption import Interrupted, check_interrupted, interruptible


def test_nothing_is_interrupted_outside() -> None:
    check_interrupted("working")
    with interruptible(lambda: False):
        check_interrupted("working")


def test_work_ends_at_its_next_step() -> None:
    over = False
    with interruptible(lambda: over):
        check_interrupted("working")
        over = True
        with pytest.raises(Interrupted, match=r"^the time of the request was over while its video was decoded$"):
            check_interrupted("its video was decoded")
    check_interrupted("working")


def test_blocks_within_blocks_end_with_the_inner_one() -> None:
    with interruptible(lambda: True):
        with interruptible(lambda: False):
            check_interrupted("working")
        with pytest.raises(Interrupted):
            check_interrupted("working")


def test_other_threads_go_on() -> None:
    seen: list[str] = []

    def other() -> None:
        check_interrupted("working")
        seen.append("went on")

    with interruptible(lambda: True):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert seen == ["went on"]
