"""Calibration on a Ray cluster of two machines (two nodes on this one) makes the bundle that one process makes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qvl_export import ExportError, export
from qvl_export.cli.commands import cli, run
from qvl_export.quant.calibration import cluster, shards
from qvl_export.quant.calibration import encode_images as encoding
from qvl_export.quant.calibration import layerwise as calibrate
from qvl_export.quant.calibration.tower import Tower
from qvl_export.quant.calibration.work_dir import Sample
from qvl_export.quant.calibration_data.prompts import Sampler
from tests.heldout import HELDOUT
from tests.oracles.tiny import REFERENCE
from tests.plans import export_plan
from tests.quant.stopping import stopped_after
from tests.quant.test_layerwise import hashes

pytestmark = pytest.mark.slow

PLAN: dict[str, Any] = {"precision": "int4", "calib": HELDOUT, "samples": 5}
MODULE = cluster.MODULE
AnyJob = cluster.ShardJob | encoding.EncodeJob


@pytest.fixture(autouse=True, scope="module")
def two_pages() -> Iterator[None]:
    """Three shards of five pages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SHARD_PAGES", 2)
        yield


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "bundle"
    export(export_plan(REFERENCE, out, **PLAN))
    return out


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[AnyJob]:
    """What machines were asked to do."""
    from qvl_export.jobs.ray_cluster import RayPool

    asked: list[AnyJob] = []
    original = RayPool.run
    monkeypatch.setattr(
        RayPool, "run", lambda self, m, jobs, *rest: (asked.extend(jobs), original(self, m, jobs, *rest))
    )
    return asked


def test_two_machines_make_the_bundle_of_one_process(
    ray_cluster: str, alone: Path, tmp_path: Path, jobs: list[AnyJob]
) -> None:
    """int8 and int4; begun on the cluster and stopped there, then here, then on the cluster again."""
    out = tmp_path / "bundle"
    for ray, tower, stages in ((ray_cluster, "vision", 2), (None, "llm", 1)):
        with stopped_after(tower, stages):
            export(export_plan(REFERENCE, out, ray=ray, **PLAN))
    assert jobs and len(jobs) % 2 == 0
    assert {tuple(job.shards) for job in jobs} == {((0, 2), (4, 5)), ((2, 4),)} and jobs[0].threads == 1
    before = len(jobs)
    export(export_plan(REFERENCE, out, ray=ray_cluster, **PLAN))
    assert {job.number for job in jobs[before:] if isinstance(job, cluster.ShardJob)} == {1, 2, 3}
    assert hashes(out) == hashes(alone)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_experts_are_calibrated_on_two_machines(
    ray_cluster: str,
    checkpoint: Callable[[str, str], Path],
    tmp_path: Path,
    jobs: list[AnyJob],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Their inputs are encoded there; OUT is relative to the directory in which the command runs."""
    source = checkpoint("qwen3_vl_moe", "small").resolve()
    monkeypatch.chdir(tmp_path)
    for name, ray in (("alone", None), ("spread", ray_cluster)):
        export(export_plan(source, name, llm_precision="int4", calib=HELDOUT, samples=5, ray=ray))
    assert hashes(tmp_path / "spread") == hashes(tmp_path / "alone")
    assert [job.shards for job in jobs if isinstance(job, encoding.EncodeJob)] == [[(0, 2), (4, 5)], [(2, 4)]]


def failing(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command leaves on standard error, and nothing else."""
    with pytest.raises(SystemExit) as stopped:
        run(cli, arguments)
    assert stopped.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line]
    return line


def command(out: Path, ray: str, *options: str) -> list[str]:
    return ["export", str(REFERENCE), str(out), "--ray", ray, "--quiet", *options]


def test_a_failing_page_is_one_line(
    ray_cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = Sampler.patches

    def spoiled(self: Sampler) -> Iterator[Sample]:
        for page, sample in enumerate(original(self)):
            yield sample._replace(hidden=sample.hidden * np.float32(np.nan)) if page == 3 else sample

    monkeypatch.setattr(Sampler, "patches", spoiled)
    arguments = command(tmp_path / "b", ray_cluster, "--precision", "int4", "--calib", str(HELDOUT), "--samples", "5")
    line = failing(arguments, capsys)
    assert line.startswith("error: the activations before visual.patch_embed") and "are not finite" in line
    assert not (tmp_path / "b").exists()


def test_a_machine_that_dies_is_one_line_and_its_stage_is_done_again(
    ray_cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, done = calibrate.quantize_stage, list[int]()

    def quantize(tower: Tower, number: int, *rest: Any) -> None:
        done.append(number)
        monkeypatch.setattr(cluster, "MODULE", "tests.quant.dying" if len(done) == 2 else MODULE)
        original(tower, number, *rest)

    monkeypatch.setattr(calibrate, "quantize_stage", quantize)
    plan = export_plan(REFERENCE, tmp_path / "b", ray=ray_cluster, **PLAN)
    with pytest.raises(ExportError, match=r"ended by signal 9 .*run the command again to resume"):
        export(plan)
    with stopped_after("vision", 2):
        export(plan)
    assert done == [0, 1, 1]


def test_nothing_to_calibrate_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert failing(command(tmp_path / "b", "127.0.0.1:1"), capsys) == (
        "error: --ray is for quantization (add --precision int8 or int4, or leave it out)"
    )


def test_no_cluster_is_reported_before_anything_is_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ray")
    line = failing(command(tmp_path / "b", "127.0.0.1:1", "--precision", "int8"), capsys)
    assert line.startswith("error: 127.0.0.1:1: no Ray cluster answers")
    assert not list(tmp_path.iterdir())
