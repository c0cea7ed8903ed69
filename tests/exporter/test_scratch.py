"""Scratch directories end with their block, and those of killed processes are removed by the next."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from qvl_export.common.scratch import LOCK, MOMENT, SCRATCH, abandoned, new_id, path_in_state, scratch


def test_a_directory_is_removed_after_the_block_and_after_an_error(tmp_path: Path) -> None:
    with scratch(tmp_path, "box") as first, scratch(tmp_path, "box") as second:
        (first / "page").write_text("x")
        assert first.is_dir() and second.is_dir() and first != second
    with pytest.raises(KeyError), scratch(tmp_path, "box"):
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_directories_that_nobody_uses_are_cleared_and_others_left_alone(tmp_path: Path) -> None:
    left = path_in_state(tmp_path, "box", new_id(), SCRATCH)
    other = path_in_state(tmp_path, "boxes", new_id(), SCRATCH)
    for directory in (left, other, tmp_path / ".box.mine.scratch"):
        directory.mkdir()
    with scratch(tmp_path, "box") as used:
        assert not left.exists() and other.is_dir() and (tmp_path / ".box.mine.scratch").is_dir()
        assert not list(abandoned(tmp_path, "box", SCRATCH)) and used.is_dir()


def test_a_new_lock_without_a_directory_belongs_to_a_process_that_starts(tmp_path: Path) -> None:
    id = new_id()
    path = path_in_state(tmp_path, "box", id, LOCK)
    path.touch()
    assert list(abandoned(tmp_path, "box", SCRATCH)) == []
    path.touch()
    os.utime(path, (time.time() - 2 * MOMENT,) * 2)
    assert list(abandoned(tmp_path, "box", SCRATCH)) == [id]
    assert list(abandoned(tmp_path / "missing", "box", SCRATCH)) == []
