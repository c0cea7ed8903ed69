"""What can be known to be wrong is refused before a model runs, in one line and no empty one."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from qvl_export.cli import cli
from qvl_export.evaluate.cli import ItemProgress


@pytest.mark.parametrize(
    "arguments",
    [
        ["compare", "none", "none", "--data", "none", "--out", "new"],
        ["blame", "none", "none", "--image", "none.png"],
        ["sweep", "none", "--pixels", "9,8", "--precisions", "fp16", "--data", "none", "--out", "new"],
    ],
)
def test_no_empty_line_goes_before_an_error(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli, arguments)
    assert done.exception is not None and "" not in done.stderr.splitlines()
    assert not list(tmp_path.iterdir())


def test_progress_without_a_bar_says_its_stages_alone(capsys: pytest.CaptureFixture[str]) -> None:
    progress = ItemProgress(quiet=False)
    progress.stage("answering", 3)
    progress.stop()
    assert capsys.readouterr() == ("", "answering\n")
