"""Locks end with their process, are not taken twice, and leave nothing behind."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from qvl_export.common.locks import lock
from qvl_export.common.scratch import abandoned, scratch

HOLDING = """
import sys, time
from pathlib import Path
from qvl_export.common.locks import lock
from qvl_export.common.scratch import scratch
with lock(Path(sys.argv[1])) as held, scratch(Path(sys.argv[2]), "box") as directory:
    (directory / "page").write_text("half")
    print(held, flush=True)
    time.sleep(600)
"""
ALIKE = Path(__file__).parents[1] / "oracles" / "without_posix"


@pytest.fixture(params=["posix", "windows"])
def environment(request: pytest.FixtureRequest) -> dict[str, str]:
    """That of a process with the locks of a platform."""
    more = [str(ALIKE)] if request.param == "windows" else []
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*more, *filter(None, [os.environ.get("PYTHONPATH")])])}


def test_a_lock_ends_with_its_process(tmp_path: Path, environment: dict[str, str]) -> None:
    path, parent = tmp_path / "a.lock", tmp_path / "scratch"
    parent.mkdir()
    command = [sys.executable, "-c", HOLDING, str(path), str(parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None and process.stdout.readline() == b"True\n"
        with lock(path) as held:
            assert held is False
        assert path.exists() and not list(abandoned(parent, "box", "scratch"))
        process.kill()
    assert path.exists() and len(list(parent.iterdir())) == 2
    with lock(path) as held:
        assert held is True
    assert not path.exists()
    with scratch(parent, "box") as mine:
        assert {child.suffix for child in parent.iterdir()} == {".scratch", ".lock"} and not list(mine.iterdir())
    assert not list(parent.iterdir())


def test_a_lock_that_was_removed_meanwhile_is_created_again(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with lock(path) as first:
        path.unlink()
        with lock(path) as second:
            assert first and second and path.exists()
    assert not path.exists()


def test_an_export_without_locks_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", unsupported)
    with lock(tmp_path / "a.lock") as held:
        assert held is None
    with scratch(tmp_path, "box"), scratch(tmp_path, "box"):
        assert len([path for path in tmp_path.iterdir() if path.suffix == ".scratch"]) == 2
    assert not list(tmp_path.iterdir())


def test_a_new_lock_is_not_taken_from_its_creator(tmp_path: Path) -> None:
    """It is open, and will be held in a moment; only a lock that stays unheld belongs to a process that has ended."""
    path = tmp_path / ".box.0123456789ab.lock"
    path.touch()
    assert not list(abandoned(tmp_path, "box", "scratch")) and path.exists()
    os.utime(path, (0, 0))
    assert list(abandoned(tmp_path, "box", "scratch")) == ["0123456789ab"] and not path.exists()


def test_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "a.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match=r"a\.lock"), lock(tmp_path / "a.lock"):
        pass
    assert not (tmp_path / "elsewhere").exists()
