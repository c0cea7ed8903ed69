"""The entry point of a program."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click
import pytest

from qvl_runtime.cli.entry_point import run


def test_arguments_are_not_expanded_on_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f1.png").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["program", "f*.png", "Is it $HOME or ~?"])
    found: list[str] = []
    command = click.Command(
        "program", params=[click.Argument(["given"], nargs=-1)], callback=lambda given: found.extend(given)
    )
    with monkeypatch.context() as windows:
        windows.setattr(os, "name", "nt")
        assert run(command, None) == 0
    assert found == ["f*.png", "Is it $HOME or ~?"]
