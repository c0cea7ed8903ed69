"""Quantized linears of standard ONNX against what their layouts mean, and float16 products beyond float16's range."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnxscript import GraphBuilder
from transformers import PreTrainedModel

from qvl_export import ExportPlan, export
from qvl_export.errors import ExportError
from qvl_export.quant.calibrate import open_session
from qvl_export.quant.gptq import round_to_nearest
from qvl_export.quant.noise import round_inputs
from qvl_export.quant.qtensor import Layout, QTensor
from qvl_export.quant.schemes import Options, find
from qvl_export.quant.statistics import Collector
from qvl_export.targets import PackedWeight, lower
from qvl_export.targets._half import HalfProducts
from qvl_runtime.model import load
from qvl_runtime.sessions import cpu
from tests.heldout import HELDOUT, divergence, items
from tests.oracles import tiny

RNG = np.random.default_rng(0)
ROWS, COLUMNS = 48, 96
WORST = {"fp32": 1e-5, "fp16": 3e-3}
"""Error of a product, as a part of its largest value: that of float32, and of float16's 11 bits."""


def apply(tensor: QTensor, bias: np.ndarray, precision: str, x: np.ndarray, path: Path) -> np.ndarray:
    """x [S, K] through the target's operators for one quantized linear, the weights as a file holds them."""
    target, (rows, columns) = lower("portable", precision, 0), tensor.codes.shape
    graph = ir.Graph([], [], nodes=[], opset_imports=dict(target.opsets), name="one")
    value = ir.Input("x", shape=ir.Shape([1, "s", columns]), type=ir.TensorType(ir.DataType.FLOAT))
    graph.inputs.append(value)
    op, packed = GraphBuilder(graph).op, target.pack(tensor)
    parts = {}
    for name, (shape, dtype) in target.packed_form(rows, columns, tensor.layout).items():
        raw = packed[name] if dtype.bitwidth < 8 else packed[name].astype(dtype.numpy())
        parts[name] = op.initializer(_tensor(raw, dtype, shape, name), name)
    added = op.initializer(ir.tensor(bias, name="bias"), "bias")
    y = target.quantized_linear(op, value, PackedWeight(parts, tensor.layout, rows, columns), added)
    y.name, y.type = "y", ir.TensorType(ir.DataType.FLOAT)
    graph.outputs.append(y)
    ir.save(ir.Model(graph, ir_version=target.ir_version), path)
    return np.asarray(open_session(path).run(None, {"x": x[None]})[0][0])


def _tensor(raw: np.ndarray, dtype: ir.DataType, shape: list[int], name: str) -> ir.TensorProtocol:
    proto = onnx.TensorProto(name=name, data_type=int(dtype), dims=shape, raw_data=np.ascontiguousarray(raw).tobytes())
    return ir.from_proto(proto)


def quantized(layout: Layout) -> QTensor:
    weight = RNG.standard_normal((ROWS, COLUMNS)).astype(np.float32)
    tensor = round_to_nearest(weight, layout)
    if layout.permuted:
        return QTensor(layout, tensor.codes, tensor.scales, tensor.zeros, RNG.permutation(COLUMNS))
    return tensor


@pytest.mark.parametrize("precision", WORST)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("block", [32, 96])
@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("permuted", [False, True])
def test_blocks_mean_what_their_layout_says(
    tmp_path: Path, precision: str, bits: int, block: int, asymmetric: bool, permuted: bool
) -> None:
    tensor = quantized(Layout(bits, block, asymmetric, permuted))
    bias, x = RNG.standard_normal(ROWS).astype(np.float32), RNG.standard_normal((9, COLUMNS)).astype(np.float32)
    y = apply(tensor, bias, precision, x, tmp_path / "m.onnx")
    expected = x.astype(np.float64) @ tensor.dequantize().T + bias
    assert np.abs(y - expected).max() < WORST[precision] * np.abs(expected).max()


def test_static_inputs_are_rounded_as_the_scheme_thinks(tmp_path: Path) -> None:
    """Values beyond the calibrated range are cut off, the same way in both."""
    collector = Collector("x", 1, hessian=False)
    collector.add(RNG.standard_normal((256, COLUMNS)).astype(np.float32))
    weight = RNG.standard_normal((ROWS, COLUMNS)).astype(np.float32)
    tensor = find("int8", Options(static=True)).quantize(weight, collector.statistics())
    assert tensor.input_scale is not None
    bias, x = np.zeros(ROWS, np.float32), 3 * RNG.standard_normal((9, COLUMNS)).astype(np.float32)
    y = apply(tensor, bias, "fp16", x, tmp_path / "m.onnx")
    expected = round_inputs(x, tensor.input_scale).astype(np.float64) @ tensor.dequantize().T
    assert np.abs(y - expected).max() < 1e-4 * np.abs(expected).max()
    assert np.abs(x).max() > 127 * tensor.input_scale


def test_partial_blocks_are_refused() -> None:
    with pytest.raises(ExportError, match="whole blocks"):
        lower("portable", "fp16").packed_form(8, 84, Layout(4, 32))


LOUD = {
    "qwen2_5_vl": ("visual.blocks.0.mlp.up_proj", "visual.blocks.0.mlp.down_proj"),
    "qwen3_vl": ("visual.blocks.0.mlp.linear_fc1", "visual.blocks.0.mlp.linear_fc2"),
    "qwen2_vl": ("language_model.layers.0.mlp.up_proj", "language_model.layers.0.mlp.down_proj"),
}
"""Linears whose outputs are known to pass float16's range, and those that bring the values back."""


@torch.no_grad()
def loud(model: PreTrainedModel, pair: tuple[str, str]) -> PreTrainedModel:
    """The first linear's outputs 10⁶ times as large, the second's weights as much smaller."""
    modules = dict(model.model.named_modules())
    for name, factor in zip(pair, (1e6, 1e-6), strict=True):
        modules[name].weight.mul_(factor)
    if modules[pair[0]].bias is not None:
        modules[pair[0]].bias.mul_(1e6)
    return model


@pytest.mark.parametrize("family", LOUD)
@pytest.mark.parametrize("target", ["portable", "cuda"])
def test_what_overflows_float16_comes_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, target: str
) -> None:
    """As close to fp32 as fp16 is; without the tokens' own scales it is not a number."""
    source = tiny.save(loud(tiny.build(family, tiny.SHAPES["small"]), LOUD[family]), tmp_path / "checkpoint")
    item = next(items("ocr"))
    export(ExportPlan(source, tmp_path / "exact", precision="fp32"))
    exact = load(tmp_path / "exact", threads=1).logits(item.messages, item.answer)

    def answered(name: str) -> np.ndarray:
        export(ExportPlan(source, tmp_path / name, target=target))
        return load(tmp_path / name, threads=1).logits(item.messages, item.answer)

    monkeypatch.setattr("qvl_runtime.sessions.cuda.open", cpu.open)
    ours = answered("ours")
    assert np.linalg.norm(ours - exact) < 0.01 * np.linalg.norm(exact)
    monkeypatch.setattr(HalfProducts, "in_range", lambda self, op, x, wide: (self.narrow(op, x), None))
    assert not np.isfinite(answered("naive")).all()


@pytest.mark.parametrize(("precision", "most"), [("int8", 0.002), ("int4", 0.03)])
def test_a_portable_bundle_reads_like_float(
    reference_bundle: Path, tmp_path: Path, precision: str, most: float
) -> None:
    plan = ExportPlan(tiny.REFERENCE, tmp_path / "b", target="portable", precision=precision, calib=HELDOUT, samples=8)
    vision = export(plan).graphs["vision"]
    assert "int8 × static int8" in vision.linears.values()
    assert divergence(load(reference_bundle, threads=1), load(tmp_path / "b", threads=1)) < most
