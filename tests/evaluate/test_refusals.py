"""Errors that are found before a model runs are one line."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from PIL import Image

from qvl_export.cli.commands import cli
from qvl_export.errors import ExportError
from qvl_export.evaluate import compare as comparing
from qvl_export.evaluate.trace import blame as blaming
from qvl_export.evaluate.trace.blame import BlamePlan, blame
from qvl_runtime.errors import BundleError, MediaError
from tests.evaluate.small_reports import report
from tests.evaluate.test_many_items import make_set
from tests.heldout import HELDOUT

PAGE = HELDOUT / "simple_0001.png"


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        pytest.fail("a model ran")

    monkeypatch.setattr(blaming, "run_jobs", refuse)


@pytest.mark.usefixtures("nothing_runs")
def test_a_missing_layer_is_refused(reference_bundle: Path) -> None:
    with pytest.raises(ExportError) as error:
        blame(BlamePlan(reference_bundle, reference_bundle, (PAGE,), "?", into="llm.layers.9"))
    blocks, layers = (", ".join(f"{name}.{i}" for i in range(4)) for name in ("vision.blocks", "llm.layers"))
    assert str(error.value) == f"{reference_bundle}: has no stage llm.layers.9 (one of {blocks}, {layers})"


@pytest.mark.usefixtures("nothing_runs")
def test_a_page_that_cannot_be_used_is_refused(reference_bundle: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.png"
    page.write_bytes(PAGE.read_bytes()[:-200])
    with pytest.raises(MediaError, match=r"page.png: cannot be read: .* \(check that the file is complete\)"):
        blame(BlamePlan(reference_bundle, reference_bundle, (PAGE, page), "?"))
    Image.new("RGB", (900, 2)).save(page)
    with pytest.raises(MediaError, match="aspect ratio"):
        blame(BlamePlan(reference_bundle, reference_bundle, (page,), "?"))


@pytest.mark.usefixtures("nothing_runs")
def test_a_missing_second_model_is_refused(reference_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a bundle directory"):
        blame(BlamePlan(reference_bundle, tmp_path / "none", (PAGE,), "?"))


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


def test_a_reference_that_answers_nothing(bundle: Any, tmp_path: Path) -> None:
    """Every item fails alike: no report of nothing with exit code 0, but the cause."""
    small = str(bundle("qwen2_5_vl", "small", "fp32"))
    data = tmp_path / "set"
    data.mkdir()
    Image.new("RGB", (56, 56), "white").save(data / "page.png")
    label = {"image": "page.png", "prompt": "Read.", "task": "ocr", "answers": ["x"]}
    (data / "labels.jsonl").write_text(json.dumps(label) + "\n" + json.dumps({**label, "prompt": "?"}) + "\n")
    command = [sys.executable, "-m", "qvl_export.cli.main", "compare", small, small, "--data", str(data)]
    options = ["--threads", "1", "--out", str(tmp_path / "out"), "--quiet", "--template-arg", "loud=1"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stdout == ""
    cause = "PromptError: the chat template has no variable 'loud' (it has none)"
    assert done.stderr == f"error: {small}: failed on all 2 items: {cause}\n"


@pytest.mark.parametrize("arguments", [["sweep", "c", "--pixels", "9,8", "--precisions", "fp16,fp32"]])
def test_a_sweep_looks_at_the_set_before_it_exports(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli, [*arguments, "--data", "none", "--out", "new"])
    assert str(done.exception) == "none: no such directory"
    (tmp_path / "empty").mkdir()
    done = CliRunner().invoke(cli, [*arguments, "--data", "empty", "--out", "new"])
    assert (
        str(done.exception) == "empty: has no labels.jsonl (make one with `qvl-export eval build`, see docs/report.md)"
    )
    (tmp_path / "empty").rmdir()
    done = CliRunner().invoke(cli, [*arguments, "--data", "none", "--out", "new", "--calib", "x"])
    said = "--calib is used only by quantization (add int8 or int4 to --precisions, or leave it out)"
    assert str(done.exception) == said and not list(tmp_path.iterdir())


@pytest.mark.parametrize(("undecided", "code"), [([], 0), (["--undecided", "pass"], 0), (["--undecided", "fail"], 1)])
def test_an_undecided_gate_passes_or_fails_by_option(
    undecided: list[str], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = report(tmp_path, 1, 1)
    monkeypatch.setattr(comparing, "compare", lambda *_: found)
    arguments = ["compare", "a", "b", "--data", "d", "--out", str(tmp_path / "out"), "--fail-if", "cer>+0pt"]
    done = CliRunner().invoke(cli, [*arguments, *undecided])
    assert done.exit_code == code
    assert "undecided: other: CER in ocr has 1 item, too few to decide (at least 20 needed)" in done.stderr


def test_undecided_without_a_gate_is_refused(tmp_path: Path) -> None:
    arguments = ["compare", "a", "b", "--data", "d", "--out", str(tmp_path / "out"), "--undecided", "fail"]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 2 and "--undecided requires --fail-if" in done.stderr


@pytest.mark.parametrize("command", ["export", "compare", "blame", "sweep", "sensitivity", "calib build", "eval build"])
def test_help_ends_with_examples_that_parse(command: str) -> None:
    """Every option of an example is one of its command."""
    help_text = CliRunner().invoke(cli, [*command.split(), "--help"]).stdout
    _, _, examples = help_text.partition("Example")
    lines = [line.strip() for line in examples.splitlines() if line.strip().startswith("qvl-export ")]
    assert any(line.startswith(f"qvl-export {command} ") for line in lines)
    for line in lines:
        _, *words = shlex.split(line)
        known, group = cli, list(words)
        while isinstance(known, click.Group):
            known = known.commands[group.pop(0)]
        options = {name for parameter in known.params for name in parameter.opts}
        assert {word for word in group if word.startswith("--")} <= options


def test_a_set_with_fewer_items_than_requested_is_reported(reference_bundle: Path, tmp_path: Path) -> None:
    data = make_set(tmp_path / "set", 3)
    arguments = ["compare", str(reference_bundle), str(tmp_path / "none"), "--data", str(data), "--items", "9"]
    done = CliRunner().invoke(cli, [*arguments, "--out", str(tmp_path / "out")])
    assert "--items 9: the set has only 3 items; all are evaluated" in done.stderr
