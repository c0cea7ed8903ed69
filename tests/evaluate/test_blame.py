"""Blame finds the layer that was damaged."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from qvl_export import export
from qvl_export.cli.main import cli
from qvl_export.errors import ExportError
from qvl_export.evaluate.trace import worker as tapping
from qvl_export.evaluate.trace.blame import (
    BROKEN,
    BlamePlan,
    Likeness,
    Stage,
    blame,
    evened,
    first_drop,
    judge,
    likeness,
    with_added,
)
from qvl_export.evaluate.trace.worker import TapJob
from qvl_runtime import load
from qvl_runtime.bundle import sha256
from tests.heldout import HELDOUT
from tests.oracles.tiny import REFERENCE
from tests.plans import export_plan

PAGE = HELDOUT / "simple_0001.png"


def damage(bundle: Path, out: Path, layer: int, only: str = "") -> Path:
    """A copy of a bundle with a layer doubled, or `only` one linear: scales of int4 linears, weights of float ones."""
    shutil.copytree(bundle, out)
    model = onnx.load(out / "llm.onnx", load_external_data=False)
    data = np.fromfile(out / "llm.onnx.data", np.uint8)
    scales = re.compile(rf"model\.layers\.{layer}\..*{re.escape(only)}.*(scales|proj\.weight)")
    for tensor in model.graph.initializer:
        if scales.fullmatch(tensor.name):
            place = {entry.key: int(entry.value) for entry in tensor.external_data if entry.key != "location"}
            part = data[place["offset"] : place["offset"] + place["length"]]
            part[:] = (part.view(np.float16) * np.float16(2)).view(np.uint8)
    data.tofile(out / "llm.onnx.data")
    manifest = json.loads((out / "bundle.json").read_text())
    manifest["files"]["llm.onnx.data"]["sha256"] = sha256(out / "llm.onnx.data")
    (out / "bundle.json").write_text(json.dumps(manifest))
    return out


@pytest.mark.parametrize("layer", [0, 2])
def test_a_damaged_layer_is_named(reference_bundle: Path, tmp_path: Path, layer: int) -> None:
    damaged = damage(reference_bundle, tmp_path / "damaged", layer)
    arguments = ["blame", str(reference_bundle), str(damaged), "--image", str(PAGE), "Read the text.", "--json"]
    done = CliRunner().invoke(cli, [*arguments, "--into", f"llm.layers.{layer}"], catch_exceptions=False)
    found = json.loads(done.stdout)
    assert found["first_drop"] == f"llm.layers.{layer}"
    names = [stage["name"] for stage in found["stages"]]
    blocks, layers = [f"vision.blocks.{i}" for i in range(4)], [f"llm.layers.{i}" for i in range(4)]
    assert names == ["preprocessing", *blocks, "vision.merger", *layers, "logits"]
    before = found["stages"][: names.index(found["first_drop"])]
    assert all(stage["all"]["sqnr"] is None for stage in before)
    linears = [stage["name"].split("/")[1] for stage in found["linears"]]
    attention = [f"self_attn.{part}_proj" for part in "qkvo"]
    assert sorted(linears) == sorted([*attention, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"])


def test_few_streams_at_a_time_are_the_same(
    reference_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = TapJob(str(reference_bundle), "bundle", (str(PAGE),), "Read the text.", "", threads=1)
    for name, count in (("all", 8), ("few", 3)):
        monkeypatch.setattr(tapping, "AT_ONCE", count)
        (tmp_path / name).mkdir()
        tapping.run(msgspec.structs.replace(job, out=str(tmp_path / name)))
    kept = sorted(path.name for path in (tmp_path / "all").iterdir())
    assert kept == sorted(path.name for path in (tmp_path / "few").iterdir()) and "vision.blocks.3.npy" in kept
    for file in kept:
        assert np.array_equal(*(np.load(tmp_path / name / file) for name in ("all", "few")))


@pytest.mark.slow
@pytest.mark.parametrize("reference", ["int4", "fp16"])
def test_a_damaged_layer_of_an_int4_bundle_is_named(
    reference: str, reference_bundle: Path, int4_bundle: Path, tmp_path: Path
) -> None:
    """Against the undamaged int4 bundle, and over the noise that int4 itself has against the float one."""
    damaged = damage(int4_bundle, tmp_path / "damaged", 2)
    plan = BlamePlan(int4_bundle, damaged, (PAGE,), "Read the text.", into="llm.layers.2", threads=1)
    found = blame(replace(plan, reference=reference_bundle) if reference == "fp16" else plan)
    assert found.first_drop == found.largest == "llm.layers.2"
    assert "the first stage that drops is llm.layers.2" in found.summary


@pytest.mark.slow
@pytest.mark.parametrize(("linear", "after"), [("mlp.up_proj", ["mlp.down_proj"]), ("mlp.down_proj", [])])
def test_a_damaged_linear_is_named(int4_bundle: Path, tmp_path: Path, linear: str, after: list[str]) -> None:
    damaged = damage(int4_bundle, tmp_path / "damaged", 2, only=linear)
    found = blame(BlamePlan(int4_bundle, damaged, (PAGE,), "Read the text.", into="llm.layers.2", threads=1))
    assert (found.largest, found.first_linear) == ("llm.layers.2", f"llm.layers.2/{linear}")
    assert f"Of the linears of llm.layers.2, {linear} drops first." in found.summary
    wrong = [stage.name for stage in found.linears if stage.all.sqnr is not None]
    assert wrong == [f"llm.layers.2/{name}" for name in (linear, *after)]


def test_a_bundle_equals_itself_and_is_left_as_it_was(reference_bundle: Path) -> None:
    before = {path.name: sha256(path) for path in reference_bundle.iterdir()}
    found = blame(BlamePlan(reference_bundle, reference_bundle, (PAGE,), "Read the text.", threads=1))
    assert found.first_drop is None and all(stage.all.sqnr is None for stage in found.stages)
    assert {path.name: sha256(path) for path in reference_bundle.iterdir()} == before
    assert not list(reference_bundle.parent.glob(".blame-*"))
    assert (
        load(reference_bundle, threads=1).generate([{"role": "user", "content": "Read."}], max_new_tokens=1) is not None
    )


def test_a_rotated_bundle_is_compared_in_the_checkpoint_s_basis(reference_bundle: Path, tmp_path: Path) -> None:
    export(export_plan(REFERENCE, tmp_path / "rotated", precision="fp32", rotate=True))
    found = blame(BlamePlan(reference_bundle, tmp_path / "rotated", (PAGE,), "Read the text.", threads=1))
    assert found.first_drop is None
    assert all(stage.all.sqnr is None or stage.all.sqnr > 40 for stage in found.stages)


def test_likeness_is_the_textbook_formula() -> None:
    rng = np.random.default_rng(0)
    y = rng.standard_normal((9, 16)).astype(np.float32)
    other = y + 0.1 * rng.standard_normal(y.shape).astype(np.float32)
    found = likeness(y, other)
    assert found.sqnr == pytest.approx(20 * np.log10(np.linalg.norm(y) / np.linalg.norm(y - other)), abs=1e-2)
    cosine = y.ravel() @ other.ravel() / np.linalg.norm(y) / np.linalg.norm(other)
    assert found.cosine == pytest.approx(cosine, abs=1e-6)
    assert likeness(y, y) == Likeness(1.0, None)


def test_what_is_not_finite_is_the_first_drop(reference_bundle: Path) -> None:
    y = np.ones((3, 4), np.float32)
    for bad in (np.inf, np.nan):
        broken = y.copy()
        broken[1, 1] = bad
        assert likeness(y, broken) == Likeness(0.0, BROKEN)
    equal, lost = Likeness(1.0, None), Likeness(0.0, BROKEN)
    found = [Stage("a", equal, equal, None), Stage("b", lost, lost, None), Stage("c", lost, lost, None)]
    told = judge(BlamePlan(reference_bundle, reference_bundle, (PAGE,), "?"), with_added(found), [])
    assert told.first_drop == "b" and told.summary == "the first stage that drops is b; the logits are not finite."


def stages(*added: float) -> list[Stage]:
    equal = Likeness(1.0, None)
    return [Stage(str(index), equal, equal, None, value) for index, value in enumerate(added)]


def test_an_even_loss_blames_no_stage() -> None:
    assert first_drop(stages(0, 0, 0.02, 0.03, 0.02, 0.025)) is None
    assert first_drop(stages(0, 0.001, 0.002, 0.6, 0.002, 0.5)) == "3"
    assert first_drop(stages(0, 1e-6, 1e-4, 1e-6)) is None


def test_a_stage_that_is_none_is_refused(reference_bundle: Path) -> None:
    with pytest.raises(ExportError, match=r"--into 'layer 2' is not a stage"):
        blame(BlamePlan(reference_bundle, reference_bundle, (PAGE,), "?", into="layer 2"))


def test_pytorch_has_no_linears_to_look_into(reference_bundle: Path) -> None:
    with pytest.raises(ExportError, match="--into looks into graphs"):
        blame(BlamePlan(REFERENCE, reference_bundle, (PAGE,), "?", into="llm.layers.1", hf=True))


def test_a_channels_scale_is_no_noise_but_a_linears_is() -> None:
    draw = np.random.default_rng(0)
    y = draw.standard_normal((50, 8)).astype(np.float32)
    scales = np.exp(draw.standard_normal(8)).astype(np.float32)
    divided = y / (scales / np.exp(np.log(scales).mean()))
    assert np.allclose(evened(y, divided), y, atol=1e-5)
    assert np.allclose(evened(y, 2 * divided), 2 * y, atol=1e-5)
