"""Mixed precision: an exact choice under a limit, by sensitivities that predict its cost."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from qvl_export import ExportError, export
from qvl_export.cli.commands import cli, run
from qvl_export.common.progress import NullProgress
from qvl_export.exporting import pipeline
from qvl_export.quant import schemes
from qvl_export.quant.calibration import layerwise as calibrate
from qvl_export.quant.calibration_data.selection import Pages
from qvl_export.quant.mixed_precision import choose as mixed
from qvl_export.quant.mixed_precision import measure, search
from qvl_export.quant.mixed_precision.sensitivity_table import Sensitivity
from qvl_runtime.bundle import read_manifest
from qvl_runtime.common.exit_codes import BAD_INPUT
from qvl_runtime.model import load
from tests.conftest import Loader
from tests.heldout import HELDOUT, divergence, items
from tests.oracles.tiny import REFERENCE
from tests.plans import changed, export_plan
from tests.quant.stopping import Stopped, quantized_stages, stopped_after, stopped_after_measuring

pytestmark = pytest.mark.slow  # sensitivities are measured first, in ten seconds


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> list[Sensitivity]:
    """Measured once for all tests."""
    arguments = ["sensitivity", str(REFERENCE), "--calib", str(HELDOUT), "--samples", "8", "--json", "--quiet"]
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    return msgspec.json.decode(result.output, type=list[Sensitivity])


def test_sensitivities_are_of_every_linear_and_make_sense(table: list[Sensitivity]) -> None:
    llm = [row for row in table if row.name.startswith("model.")]
    assert len(llm) == 4 * 7
    assert sum(row.kl["int8"] for row in llm) < 0.5 * sum(row.kl["int4"] for row in llm)
    assert len(table) - len(llm) == 4 * 5 + 1 + 2
    vision = [row for row in table if row.name.startswith("visual.")]
    assert {"int8"} <= set().union(*(row.kl for row in vision)) <= {"int8", "int8 together"}
    assert all(row.kl["int8 together"] > row.kl["int8"] for row in vision if "int8 together" in row.kl)
    assert all(row.kl.keys() == row.formats.keys() for row in table)


def test_linear_attention_is_measured_and_chosen_for(
    checkpoint: Callable[[str, str], Path], model: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All linears but the projections of decay and step; the bundle is as small as asked, and answers."""
    plan = export_plan(checkpoint("qwen3_5", "small"), tmp_path / "b", calib=HELDOUT, samples=2)
    rows = pipeline.sensitivity(plan)
    found = {row.name.removeprefix("model.layers.0.") for row in rows if row.name.startswith("model.layers.0.")}
    linear = {f"linear_attn.{name}" for name in ("in_proj_qkv", "in_proj_z", "out_proj")}
    assert found == linear | {f"mlp.{name}_proj" for name in ("gate", "up", "down")}
    assert all(0 < row.kl["int8"] < row.kl["int4"] for row in rows if row.name.startswith("model.layers.0.linear_attn"))
    monkeypatch.setattr(mixed, "sensitivities", lambda *_: rows)
    limit = 700_000
    export(changed(plan, max_size=limit))
    assert 0.95 * limit < size_of(tmp_path / "b") <= limit
    ours = load(tmp_path / "b", threads=1)
    assert divergence(model("qwen3_5", "small", "fp32"), ours, list(items("ocr"))[:2]) < 0.05


class Stages(NullProgress):
    def __init__(self) -> None:
        self.stages: list[str] = []

    def stage(self, text: str, total: int = 0) -> None:
        self.stages.append(text)


@pytest.mark.parametrize("limit", [{"max_kl": 0.001}, {"max_size": 4_500_000}, {"max_size": 6_200_000}], ids=str)
def test_limits_are_kept(
    table: list[Sensitivity],
    reference_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    limit: dict[str, float],
) -> None:
    """The bundle is as small as asked; the predicted divergence is about the one measured on other pages."""
    monkeypatch.setattr(mixed, "sensitivities", lambda *_: table)
    export(export_plan(REFERENCE, tmp_path / "b", **limit, calib=HELDOUT, samples=8))
    used = {
        name: form for graph in read_manifest(tmp_path / "b").graphs.values() for name, form in graph.linears.items()
    }
    assert {form.split()[0] for name, form in used.items() if "embed" not in name} <= {"int4", "int8"}
    measured = divergence(load(reference_bundle, threads=1), load(tmp_path / "b", threads=1))
    if "max_size" in limit:
        assert 0.98 * limit["max_size"] < size_of(tmp_path / "b") <= limit["max_size"]
    else:
        assert measured < 3 * limit["max_kl"]


def test_the_printed_table_ends_where_its_rows_do(table: list[Sensitivity], monkeypatch: pytest.MonkeyPatch) -> None:
    """And has no column for a scheme that is not measured."""
    monkeypatch.setattr(schemes, "available", lambda: ["int4", "int8", "other"])
    monkeypatch.setattr(pipeline, "sensitivity", lambda *_: table)
    lines = CliRunner().invoke(cli, ["sensitivity", str(REFERENCE)], catch_exceptions=False).output.splitlines()
    assert lines[0].split() == ["linear", "shape", "KL", "int4", "KL", "int8"]
    assert len(lines) == 1 + len(table)
    assert not [line for line in lines if line != line.strip()]


STAGES = ["visual.patch_embed", *(f"visual.blocks.{i}" for i in range(4)), "visual.merger"]
STAGES += [f"model.layers.{i}" for i in range(4)]


@pytest.mark.parametrize("killed", ["visual.merger", "model.layers.0"])
def test_a_killed_measurement_resumes_with_the_next_stage(
    table: list[Sensitivity], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: str
) -> None:
    """With exactly the same numbers."""
    plan = export_plan(REFERENCE, tmp_path / "b", max_kl=0.001, calib=HELDOUT, samples=8)
    with stopped_after_measuring(killed):
        export(plan)
    measured, original = list[str](), measure.measure_stage
    monkeypatch.setattr(
        measure, "measure_stage", lambda t, name, *rest: (measured.append(name), original(t, name, *rest))[1]
    )
    found: list[list[Sensitivity]] = []
    monkeypatch.setattr(search, "solve", lambda table, *_: stop_with(found, table))
    with pytest.raises(Stopped):
        export(plan)
    assert measured == STAGES[STAGES.index(killed) + 1 :]
    assert by_name(found[0]) == by_name(table)


def size_of(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir())


def by_name(table: list[Sensitivity]) -> list[Sensitivity]:
    return sorted(table, key=lambda row: row.name)


def stop_with(kept: list[Any], value: Any) -> NoReturn:
    kept.append(value)
    raise Stopped


def test_another_limit_is_chosen_for_without_measuring_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A calibration for the old limit is not resumed."""
    measured: list[int] = []
    original = measure.measure
    monkeypatch.setattr(measure, "measure", lambda *rest: (measured.append(1), original(*rest))[1])
    plan = export_plan(REFERENCE, tmp_path / "b", calib=HELDOUT, samples=2)
    with stopped_after("vision", 2):
        export(changed(plan, max_size=5_500_000))
    with quantized_stages() as calibrated:
        export(changed(plan, max_size=6_200_000))
    assert len(measured) == 1
    assert ("vision", 0) in calibrated
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_the_least_size_is_named_before_anything_is_measured_and_can_be_had(
    table: list[Sensitivity], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bundle has exactly the predicted size."""
    plan = export_plan(REFERENCE, tmp_path / "b", max_size=1_000_000, calib=HELDOUT, samples=8)
    monkeypatch.setattr(Pages, "questions", lambda *_: pytest.fail("pages were read"))
    with pytest.raises(ExportError, match="no bundle fits in 1,000,000 bytes") as refused:
        export(plan)
    monkeypatch.undo()
    assert not list(tmp_path.iterdir())
    least = int(re.findall(r"--max-size must be at least ([\d,]+)", str(refused.value))[0].replace(",", ""))
    monkeypatch.setattr(mixed, "sensitivities", lambda *_: table)
    with pytest.raises(ExportError, match=f"must be at least {least:,}"):
        export(changed(plan, max_size=least - 1))
    export(changed(plan, max_size=least))
    assert size_of(tmp_path / "b") == least


def test_int8_that_would_stay_float_is_not_a_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be taken for small and free, and the size predicted without it would be wrong."""
    monkeypatch.setattr(calibrate, "LEAST_SQNR", np.inf)
    plan = export_plan(REFERENCE, tmp_path / "b", calib=HELDOUT, samples=1)
    rows = pipeline.sensitivity(plan)
    assert {name for row in rows for name in row.kl} == {"int4"}
    monkeypatch.setattr(pipeline, "sensitivity", lambda *_: rows)
    assert CliRunner().invoke(cli, ["sensitivity", str(REFERENCE)], catch_exceptions=False).exit_code == 0
    monkeypatch.setattr(mixed, "sensitivities", lambda *_: rows)
    monkeypatch.setattr(calibrate, "quantize_tower", lambda *_: pytest.fail("calibrated before the limit was checked"))
    with pytest.raises(ExportError, match="no bundle fits in 5,000,000 bytes"):
        export(changed(plan, max_size=5_000_000))


def test_small_divergences_are_reported(
    table: list[Sensitivity], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quieter = [msgspec.structs.replace(row, kl={name: kl / 1000 for name, kl in row.kl.items()}) for row in table]
    monkeypatch.setattr(mixed, "sensitivities", lambda *_: quieter)
    monkeypatch.setattr(calibrate, "quantize_tower", lambda *_: stop_with([], None))
    progress = Stages()
    with pytest.raises(Stopped):
        export(export_plan(REFERENCE, tmp_path / "b", max_kl=1e-6, calib=HELDOUT, samples=1), progress)
    (expected,) = re.findall(r"expected KL of the chosen precisions: (\S+)", "\n".join(progress.stages))
    assert 0 < float(expected) <= 1e-6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-kl", "0.1", "--max-size", "1GB"], "exclude one another"),
        (["--max-kl", "0.1", "--precision", "int8"], "exclude one another"),
        (["--max-kl", "-1"], "a limit of -1.0 cannot be kept"),
        (["--max-kl", "nan"], "max_kl must be a number or None, got nan"),
        (["--max-kl", "inf"], "a limit of inf cannot be kept"),
        (["--max-size", "0"], "a limit of 0 cannot be kept"),
        (["--max-size", "much"], "not a size such as 800MB"),
        (["--max-size", "9" * 400], "not a size such as 800MB"),
    ],
)
def test_limits_that_make_no_sense(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    """One line, and nothing is read or measured before."""
    with pytest.raises(SystemExit) as stopped:
        run(cli, ["export", str(REFERENCE), str(tmp_path / "b"), *arguments])
    assert stopped.value.code == BAD_INPUT
    assert re.fullmatch(f"error: .*{message}.*\n", capsys.readouterr().err)
    assert not list(tmp_path.iterdir())
