"""Files kept for the next start: whole or not at all, and never in the way."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import platformdirs
import pytest

from qvl_runtime.common import user_cache


def test_what_is_kept_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = user_cache.directory("program") / "engines"
    assert path == tmp_path / "program" / "engines"
    assert user_cache.read(path) is None
    for data in (b"one", b"two"):
        user_cache.keep(path, data)
        assert user_cache.read(path) == data
    assert [file.name for file in path.parent.iterdir()] == ["engines"]


def test_a_directory_that_cannot_be_created_is_not_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    user_cache.keep(tmp_path / "file" / "engines", b"data")
    assert user_cache.read(tmp_path / "file" / "engines") is None


def test_users_without_a_home_keep_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", str)  # "~" stays as it is
    monkeypatch.chdir(tmp_path)
    path = user_cache.directory("program") / "engines"
    user_cache.keep(path, b"data")
    assert user_cache.read(path) is None and not list(tmp_path.iterdir())


def test_the_directory_is_the_platforms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    found = user_cache.directory("program")
    assert found == platformdirs.user_cache_path("program", appauthor=False)
    if sys.platform == "linux":
        assert found == Path.home() / ".cache" / "program", "where it was before platformdirs"


def test_what_cannot_be_kept_leaves_nothing_beside(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    user_cache.keep(tmp_path / "taken", b"one")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
