"""A bundle whose engine is not here is refused before any model runs; answers that are there need no engine."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from qvl_export import export
from qvl_export.cli.commands import cli
from qvl_export.evaluate.answers.answer_runner import AnswerRunner
from qvl_export.evaluate.answers.engine_checks import check_engines
from qvl_export.evaluate.trace import blame as blaming
from qvl_export.evaluate.trace.blame import BlamePlan, blame
from qvl_runtime.errors import BundleError, InstallError
from tests.evaluate.test_many_items import make_set
from tests.heldout import HELDOUT
from tests.oracles.tiny import REFERENCE
from tests.plans import export_plan

PAGE = HELDOUT / "simple_0001.png"


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of target openvino."""
    out = tmp_path_factory.mktemp("openvino") / "elsewhere"
    export(export_plan(REFERENCE, out, target="openvino", precision="fp16"))
    return out


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO is missing, and no model may run."""

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("a model ran")

    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr(AnswerRunner, "answer", refuse)
    monkeypatch.setattr(blaming, "run_jobs", refuse)


@pytest.mark.usefixtures("nothing_runs")
def test_compare_checks_all_engines_first(reference_bundle: Path, elsewhere: Path, tmp_path: Path) -> None:
    data = make_set(tmp_path / "set", 1)
    arguments = ["compare", str(reference_bundle), str(elsewhere), "--data", str(data), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(cli, arguments)
    assert isinstance(done.exception, InstallError)
    assert str(done.exception).startswith(f"{elsewhere}: OpenVINO is not installed (pip install")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("nothing_runs")
def test_blame_checks_both_engines_first(reference_bundle: Path, elsewhere: Path) -> None:
    with pytest.raises(InstallError, match=r"elsewhere: OpenVINO is not installed \(pip install"):
        blame(BlamePlan(reference_bundle, elsewhere, (PAGE,), "?"))


def test_engines_that_are_not_built_are_found(tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(export_plan(REFERENCE, out, target="tensorrt", jetpack="6"))
    with pytest.raises(BundleError, match=r"vision\.engine: is not built yet \(run build_engines\.sh"):
        check_engines([out])


@pytest.mark.slow
def test_a_report_whose_answers_are_all_there_needs_no_engine(
    reference_bundle: Path, elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    data, out = make_set(tmp_path / "set", 1), tmp_path / "out"
    shutil.copyfile(PAGE, next(data.glob("*.png")))
    options = ["--threads", "1", "--max-new-tokens", "4", "--no-blame", "--quiet"]
    arguments = ["compare", str(reference_bundle), str(elsewhere), "--data", str(data), "--out", str(out), *options]
    assert CliRunner().invoke(cli, arguments, catch_exceptions=False).exit_code == 0
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert CliRunner().invoke(cli, arguments, catch_exceptions=False).exit_code == 0
