"""The interpreter and the search path of child processes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import qvl_runtime
from qvl_runtime.common.interpreter import interpreter, locations


@pytest.mark.parametrize(
    ("executable", "usable"),
    [("/usr/bin/python3.12", True), (r"/opt/pypy3", True), ("/usr/bin/uwsgi", False), ("", False), (None, False)],
)
def test_only_python_is_an_interpreter(executable: str | None, usable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    assert interpreter() == (executable if usable else None)


def test_a_frozen_application_has_no_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert interpreter() is None


def test_locations_are_absolute_and_unique(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("first_package", "second_package"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [".", *sys.path])
    found = locations("first_package", "second_package", "qvl_runtime", "no_such_package")
    assert found == [str(tmp_path), str(Path(qvl_runtime.__file__).parents[1])]
