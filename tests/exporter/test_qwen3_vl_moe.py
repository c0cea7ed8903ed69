"""Qwen3-VL-MoE: experts in every form they come in, and quantized."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from safetensors.torch import load_file, save_file

from qvl_export import CheckpointError, ConfigError, ExportPlan, export
from qvl_export.checkpoint.directory import Checkpoint
from qvl_export.families import read_spec
from qvl_export.quant import schemes
from qvl_export.quant.context import CalibrationSetup
from qvl_export.quant.quantizer import Quantizer
from qvl_runtime import load
from qvl_runtime.answers import generate
from tests.conftest import Loader
from tests.exporter import damage as d
from tests.exporter.test_checkpoint import Tensors, data_hashes
from tests.exporter.test_qwen3_vl import described, everywhere
from tests.heldout import HELDOUT, items
from tests.oracles.families.qwen3_vl_moe import EXPERT
from tests.oracles.tiny import SHAPES
from tests.plans import export_plan

FAMILY = "qwen3_vl_moe"


def test_published_configuration(tmp_path: Path) -> None:
    spec = read_spec(described(tmp_path, "qwen3-vl-30b-a3b"))
    text, moe = spec.text, spec.text.moe
    assert (text.hidden_size, text.num_layers, text.num_heads, text.num_key_value_heads) == (2048, 48, 32, 4)
    assert (text.head_dim, text.deepstack_layers, spec.vision.deepstack_blocks) == (128, 3, (8, 16, 24))
    assert moe is not None
    assert (moe.num_experts, moe.experts_per_token, moe.intermediate_size) == (128, 8, 768)
    assert moe.dense_layers == frozenset()


@pytest.mark.parametrize(
    ("said", "experts", "dense"),
    [
        ({"num_experts": None, "num_local_experts": 64}, 64, set()),
        ({"num_experts": None}, 60, set()),
        ({"mlp_only_layers": [0, 5]}, 128, {0, 5}),
        ({"decoder_sparse_step": 24}, 128, set(range(48)) - {23, 47}),
    ],
    ids=str,
)
def test_ways_to_say_where_experts_are(tmp_path: Path, said: dict[str, Any], experts: int, dense: set[int]) -> None:
    source = described(tmp_path, "qwen3-vl-30b-a3b")
    source.config["text_config"] |= said
    moe = read_spec(source).text.moe
    assert moe is not None and (moe.num_experts, moe.dense_layers) == (experts, dense)


def test_more_chosen_than_there_are(tmp_path: Path) -> None:
    source = described(tmp_path, "qwen3-vl-30b-a3b")
    source.config["text_config"]["num_experts_per_tok"] = 129
    with pytest.raises(ConfigError, match="num_experts_per_tok 129 is more than 128 experts"):
        read_spec(source)


def turn(tensors: Tensors) -> None:
    for name in tensors:
        if ".mlp.experts." in name:
            tensors[name] = tensors[name].transpose(1, 2).contiguous()


@pytest.mark.parametrize("shape", SHAPES)  # in one gate_up is square, in another down
def test_experts_are_read_either_way_round(checkpoint: Callable[[str, str], Path], shape: str, tmp_path: Path) -> None:
    """As the hub has them and as transformers 5 holds them in memory; what a shape cannot tell the other one does."""
    plain = checkpoint(FAMILY, shape)
    other = Path(shutil.copytree(plain, tmp_path / "turned"))
    d.tensors(turn)(other)
    shapes = {tensor.shape for name, tensor in Checkpoint(plain).tensors.items() if "experts.gate_up" in name}
    assert shapes == {(6, 2 * EXPERT[SHAPES[shape].hidden], SHAPES[shape].hidden)}, "as in memory"
    assert data_hashes(plain, tmp_path / "one") == data_hashes(other, tmp_path / "two")


def test_experts_of_another_size_are_refused(checkpoint: Callable[[str, str], Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(checkpoint(FAMILY, "deep"), tmp_path / "copy"))
    config = json.loads((copy / "config.json").read_text())
    config["text_config"]["moe_intermediate_size"] = 32
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"experts\.\w+_proj has shape .* config\.json says"):
        export(ExportPlan(copy, tmp_path / "out"))


@pytest.mark.slow
def test_int4_experts(checkpoint: Callable[[str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All experts in int4, the router in float, the answer near that of float, and nearer by GPTQ.

    GPTQ's benefit shows if only experts are quantized, in a model in which they matter: experts of random
    checkpoints are so small that their error is lost in the noise of other linears.
    """
    source = Path(shutil.copytree(checkpoint(FAMILY, "deep"), tmp_path / "loud"))
    for file in source.glob("*.safetensors"):
        tensors = {name: t * 12 if ".experts." in name else t for name, t in load_file(file).items()}
        save_file(tensors, file, {"format": "pt"})
    plan = {"llm_precision": "int4", "calib": HELDOUT, "samples": 12, "accuracy_level": 0, "precision": "fp32"}
    export(ExportPlan(source, tmp_path / "float", precision="fp32"))
    pages, errors = list(items("ocr"))[300:306], {}  # none of those calibrated on

    def logits(path: Path) -> np.ndarray:
        reader = load(path, threads=1)
        return np.concatenate([reader.logits(page.messages, page.answer).ravel() for page in pages])

    reference = logits(tmp_path / "float")

    def alone(quantizer: Quantizer, *_: Any) -> Callable[[str], schemes.Scheme | None]:
        int4 = schemes.find("int4", quantizer.setup.options)
        return lambda name: int4 if ".experts." in name else None

    for case in ("whole", "by GPTQ", "to nearest"):
        out = tmp_path / case
        with monkeypatch.context() as patch:
            if case != "whole":
                patch.setattr(Quantizer, "scheme_of", alone)
                patch.setattr(CalibrationSetup, "tables", ())
            export(export_plan(source, out, gptq_experts=case != "to nearest", **plan))
        graph = onnx.load(out / "llm.onnx", load_external_data=False).graph
        kinds = [node.op_type for node in graph.node]
        assert (kinds.count("QMoE"), kinds.count("MoE")) == (SHAPES["deep"].layers - 1, 0)
        floats = {value.name for value in graph.initializer if value.data_type == onnx.TensorProto.FLOAT}
        routers = {f"model.layers.{i}.mlp.gate.weight" for i in (0, 2, 3, 4)}
        assert routers <= floats and not any(".experts." in name for name in floats)
        errors[case] = np.square(logits(out) - reference).mean() / reference.var()
    assert errors["by GPTQ"] < 0.9 * errors["to nearest"]
    assert errors["whole"] < 0.25


def test_prefill_in_chunks_changes_nothing(model: Loader, bundle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token's experts do not depend on what is run beside it."""
    whole = everywhere(model(FAMILY, "deep", "fp32"))
    monkeypatch.setattr(generate, "PREFILL_CHUNK", 7)
    assert np.abs(everywhere(load(bundle(FAMILY, "deep", "fp32"), threads=1)) - whole).max() < 1e-4
