"""What can be known to be wrong is refused before a model runs, in one line and no empty one."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from PIL import Image

from qvl_export.cli.main import cli
from qvl_export.cli.progress import ItemProgress, _Lines
from qvl_export.errors import ExportError
from qvl_export.evaluate import compare as comparing
from qvl_export.evaluate.answers.models import open_models
from qvl_export.evaluate.trace import blame as blaming
from qvl_export.evaluate.trace.blame import BlamePlan, blame
from qvl_runtime.errors import BundleError, MediaError
from tests.evaluate.test_few_items import report
from tests.evaluate.test_many_items import make_set
from tests.heldout import HELDOUT
from tests.oracles.tiny import REFERENCE

PAGE = HELDOUT / "simple_0001.png"


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        pytest.fail("a model ran")

    monkeypatch.setattr(blaming, "run_jobs", refuse)


@pytest.mark.usefixtures("nothing_runs")
def test_a_layer_that_no_model_has(reference_bundle: Path) -> None:
    with pytest.raises(ExportError) as error:
        blame(BlamePlan(reference_bundle, reference_bundle, (PAGE,), "?", into="llm.layers.9"))
    blocks, layers = (", ".join(f"{name}.{i}" for i in range(4)) for name in ("vision.blocks", "llm.layers"))
    assert str(error.value) == f"{reference_bundle}: there is no stage llm.layers.9 (one of {blocks}, {layers})"


@pytest.mark.usefixtures("nothing_runs")
def test_a_truncated_page(reference_bundle: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.png"
    page.write_bytes(PAGE.read_bytes()[:-200])
    with pytest.raises(MediaError, match=r"page.png: cannot be read: .* \(check that the file is complete\)"):
        blame(BlamePlan(reference_bundle, reference_bundle, (PAGE, page), "?"))
    Image.new("RGB", (900, 2)).save(page)
    with pytest.raises(MediaError, match="aspect ratio"):
        blame(BlamePlan(reference_bundle, reference_bundle, (page,), "?"))


@pytest.mark.usefixtures("nothing_runs")
def test_a_second_model_that_is_none(reference_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a bundle directory"):
        blame(BlamePlan(reference_bundle, tmp_path / "none", (PAGE,), "?"))


def test_a_checkpoint_where_a_bundle_is_wanted(reference_bundle: Path) -> None:
    checkpoint = Path(REFERENCE)
    said = r": is a checkpoint, not a bundle \(give --reference hf to run it by PyTorch, or export it first\)$"
    with pytest.raises(ExportError, match=said):
        open_models(checkpoint, (reference_bundle,), hf=False)
    with pytest.raises(ExportError, match=said):
        blame(BlamePlan(checkpoint, reference_bundle, (PAGE,), "?"))
    assert [model.engine for model in open_models(checkpoint, (reference_bundle,), hf=True)] == ["hf", "bundle"]


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
    assert done.stderr == f"error: {small}: answers none of 2 items: {cause}\n"


def test_progress_without_a_terminal_is_a_line_per_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    progress = ItemProgress(quiet=False)
    progress.stage("int8: 40 of 40 items to answer", 40)
    for _ in range(40):
        progress.advance(1)
    progress.stage("comparing")
    progress.advance(1)
    progress.stop()
    first, *lines, last = capsys.readouterr().err.splitlines()
    assert (first, last) == ("int8: 40 of 40 items to answer", "comparing")
    assert [line.split(",")[0] for line in lines] == [f"  {done} of 40" for done in range(4, 41, 4)]
    assert re.fullmatch(r"  4 of 40, \d+ s left", lines[0]) and lines[-1] == "  40 of 40"


def test_slow_items_are_told_every_half_minute() -> None:
    times = iter([0.0, 10.0, 31.0, 35.0])
    lines = _Lines(1000, lambda: next(times))
    assert [lines.after(1) for _ in range(3)] == ["", "  2 of 1000, 15469 s left", ""]


def test_quiet_progress_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    progress = ItemProgress(quiet=True)
    progress.stage("answering", 1)
    progress.advance(1)
    progress.stop()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("arguments", [["sweep", "c", "--pixels", "9,8", "--precisions", "fp16,fp32"]])
def test_a_sweep_looks_at_the_set_before_it_exports(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli, [*arguments, "--data", "none", "--out", "new"])
    assert (
        str(done.exception) == "none: has no labels.jsonl (make one with `qvl-export eval build`, see docs/report.md)"
    )
    done = CliRunner().invoke(cli, [*arguments, "--data", "none", "--out", "new", "--calib", "x"])
    said = "--calib is for quantization (add int8 or int4 to --precisions, or leave it out)"
    assert str(done.exception) == said and not list(tmp_path.iterdir())


@pytest.mark.parametrize(("undecided", "code"), [([], 0), (["--undecided", "pass"], 0), (["--undecided", "fail"], 1)])
def test_what_a_gate_without_a_decision_does_is_an_option(
    undecided: list[str], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = report(tmp_path, 1, 1)
    monkeypatch.setattr(comparing, "compare", lambda *_: found)
    arguments = ["compare", "a", "b", "--data", "d", "--out", str(tmp_path / "out"), "--fail-if", "cer>+0pt"]
    done = CliRunner().invoke(cli, [*arguments, *undecided])
    assert done.exit_code == code
    assert "not decided: other: CER in ocr has 1 item, too few to tell (at least 20 are needed)" in done.stderr


def test_undecided_without_a_gate_is_refused(tmp_path: Path) -> None:
    arguments = ["compare", "a", "b", "--data", "d", "--out", str(tmp_path / "out"), "--undecided", "fail"]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 2 and "--undecided is for --fail-if: add one, or leave it out" in done.stderr


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


def test_fewer_items_than_were_asked_for_are_told(reference_bundle: Path, tmp_path: Path) -> None:
    data = make_set(tmp_path / "set", 3)
    arguments = ["compare", str(reference_bundle), str(tmp_path / "none"), "--data", str(data), "--items", "9"]
    done = CliRunner().invoke(cli, [*arguments, "--out", str(tmp_path / "out")])
    assert "--items 9: there are only 3, and all are asked" in done.stderr
