"""Blame finds the layer that was damaged."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import helper

from qvl_export import export
from qvl_export.cli.commands import cli
from qvl_export.errors import ExportError
from qvl_export.evaluate.trace.blame import BlamePlan, blame
from qvl_runtime import load
from qvl_runtime.bundle import sha256
from tests.heldout import HELDOUT
from tests.oracles.tiny import REFERENCE
from tests.plans import export_plan

pytestmark = pytest.mark.slow

PAGE = HELDOUT / "simple_0001.png"


def damage(bundle: Path, out: Path, layer: int, only: str = "") -> Path:
    """A copy of a bundle with a layer doubled, or `only` one linear: scales of int4 linears, weights of float ones."""
    shutil.copytree(bundle, out)
    model = onnx.load(out / "llm.onnx", load_external_data=False)
    data = np.fromfile(out / "llm.onnx.data", np.uint8)
    scales = re.compile(rf"model\.layers\.{layer}\..*{re.escape(only or 'proj')}.*\.(scales|weight(\.\d+)?)")
    for tensor in model.graph.initializer:
        if scales.fullmatch(tensor.name):
            place = {entry.key: int(entry.value) for entry in tensor.external_data if entry.key != "location"}
            part = data[place["offset"] : place["offset"] + place["length"]]
            values = part.view(helper.tensor_dtype_to_np_dtype(tensor.data_type))
            values *= 2
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
    assert "the first drop is at llm.layers.2" in found.summary


@pytest.mark.slow
@pytest.mark.parametrize(("linear", "after"), [("mlp.up_proj", ["mlp.down_proj"]), ("mlp.down_proj", [])])
def test_a_damaged_linear_is_named(int4_bundle: Path, tmp_path: Path, linear: str, after: list[str]) -> None:
    damaged = damage(int4_bundle, tmp_path / "damaged", 2, only=linear)
    found = blame(BlamePlan(int4_bundle, damaged, (PAGE,), "Read the text.", into="llm.layers.2", threads=1))
    assert (found.largest, found.first_linear) == ("llm.layers.2", f"llm.layers.2/{linear}")
    assert f"Among the linears of llm.layers.2, the first drop is at {linear}." in found.summary
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


def test_every_stage_of_an_openvino_bundle_is_compared(reference_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    export(export_plan(REFERENCE, tmp_path / "openvino", target="openvino", precision="fp32"))
    damaged = damage(tmp_path / "openvino", tmp_path / "damaged", 2, only="mlp.down_proj")
    for bundle, drop in ((tmp_path / "openvino", None), (damaged, "llm.layers.2")):
        found = blame(BlamePlan(reference_bundle, bundle, (PAGE,), "Read the text.", into="llm.layers.2", threads=1))
        names = [*(f"vision.blocks.{i}" for i in range(4)), "vision.merger", *(f"llm.layers.{i}" for i in range(4))]
        assert [stage.name for stage in found.stages] == ["preprocessing", *names, "logits"]
        assert found.first_drop == drop and len(found.linears) == 7
    assert found.first_linear == "llm.layers.2/mlp.down_proj"


def test_an_unknown_stage_is_refused(reference_bundle: Path) -> None:
    with pytest.raises(ExportError, match=r"--into 'layer 2' is not a stage"):
        blame(BlamePlan(reference_bundle, reference_bundle, (PAGE,), "?", into="layer 2"))


def test_linears_of_pytorch_are_refused(reference_bundle: Path) -> None:
    with pytest.raises(ExportError, match="--into cannot be combined with --reference hf"):
        blame(BlamePlan(REFERENCE, reference_bundle, (PAGE,), "?", into="llm.layers.1", hf=True))
