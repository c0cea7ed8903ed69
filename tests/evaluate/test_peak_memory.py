"""The peak memory of a process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qvl_export.evaluate.answers.peak_memory import PeakMemory


def test_a_block_counts_what_it_uses() -> None:
    memory = PeakMemory()
    memory.update()
    before = memory.megabytes
    with memory.counting():
        np.ones(30_000_000)
    assert before > 1 and memory.megabytes > 240


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the high-water mark is Linux's")
def test_what_is_used_outside_the_block_is_not_counted() -> None:
    np.ones(60_000_000)
    memory = PeakMemory()
    with memory.counting():
        pass
    inside = memory.megabytes
    np.ones(60_000_000)
    assert memory.megabytes == inside
    memory.update()
    assert memory.megabytes > inside + 200
