"""A linear whose output is requested in parts gives the parts of its whole output, in every format, on every engine."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnxscript import GraphBuilder, OpBuilder, nn

from qvl_export.evaluate.trace.expose_graph import linears
from qvl_export.graph.build import FLOAT, add_input, add_output, empty_graph, finished
from qvl_export.graph.layers import Linear
from qvl_export.graph.quantized import quantize
from qvl_export.qtensor import QTensor, QuantFormat
from qvl_export.quant.calibration.layer_session import open_session
from qvl_export.quant.gptq.solver import round_to_nearest
from qvl_export.quant.schemes import Options, find
from qvl_export.targets import Target, lower
from tests.conftest import GRAPH_TARGETS
from tests.quant.layers import stored

SIZE, OUT, TOKENS = 64, 32, 7
FORMS = ("float", "int8", "int8 together", "int4")
PREFIX, NAME = "visual.blocks.0.attn", "visual.blocks.0.attn.qkv"


class Cut(nn.Module):
    """q, k and v of one linear, or all of it."""

    def __init__(self, target: Target, parts: int) -> None:
        super().__init__()
        self.qkv, self.count = Linear(target, SIZE, 3 * OUT), parts

    def forward(self, op: OpBuilder, x: ir.Value) -> list[ir.Value]:
        found = self.qkv(op, x, parts=self.count)
        return [op.Neg(part) for part in (found if self.count > 1 else [found])]


def quantized(form: str, weight: np.ndarray, target: Target) -> QTensor | None:
    """As a scheme has it; None for float."""
    if form == "float":
        return None
    if form == "int4":
        return round_to_nearest(weight, QuantFormat(4, 32))
    scheme = find("int8", Options(static=target.static_activations))
    tensor = replace(scheme.quantize(weight, None), input_scale=0.03 if target.static_activations else None)
    return tensor.with_inputs_per_tensor() if form == "int8 together" else tensor


def save(name: str, form: str, parts: int, path: Path) -> None:
    """The graph x → −q, −k, −v, or their negative whole."""
    draw = np.random.default_rng(0)
    weight, bias = (draw.standard_normal(shape).astype(np.float32) for shape in ((3 * OUT, SIZE), (3 * OUT,)))
    target = lower(name, "fp16")
    graph = empty_graph("parts", target)
    x, module = add_input(graph, "x", FLOAT, [1, "tokens", SIZE]), Cut(target, parts)
    module._set_name(PREFIX)
    tensor = quantized(form, weight, target)
    quantize(module, PREFIX, {NAME: tensor.format} if tensor else {})
    for index, value in enumerate(module(GraphBuilder(graph).op, x)):
        add_output(graph, value, f"y{index}", None)
    values: dict[str, Any] = {"weight": weight, "bias": bias, **(target.pack(tensor) if tensor else {})}
    for whole, value in graph.initializers.items():
        assert value.shape is not None and value.dtype is not None
        part = values[whole.removeprefix(f"{NAME}.")]
        value.const_value = stored(np.asarray(part), value.dtype, value.shape.numpy(), whole)
    ir.save(finished(graph, target), path)


def run(path: Path, names: list[str] | None = None) -> list[np.ndarray]:
    x = np.random.default_rng(1).standard_normal((1, TOKENS, SIZE)).astype(np.float32)
    return [np.asarray(y[0]) for y in open_session(path).run(names, {"x": x})]


CASES = [
    (target, form)
    for target, form in product(GRAPH_TARGETS, FORMS)
    if form != "int8 together" or lower(target, "fp16").per_tensor_activations
]


@pytest.mark.parametrize(("target", "form"), CASES)
def test_parts_are_those_of_the_whole(target: str, form: str, tmp_path: Path) -> None:
    save(target, form, 1, tmp_path / "whole.onnx")
    save(target, form, 3, tmp_path / "parts.onnx")
    (whole,), parts = run(tmp_path / "whole.onnx"), run(tmp_path / "parts.onnx")
    assert [part.shape for part in parts] == [(TOKENS, OUT)] * 3
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("target", "form"), CASES)
def test_blame_sees_them_joined(target: str, form: str, tmp_path: Path) -> None:
    save(target, form, 3, tmp_path / "parts.onnx")
    expected = -np.concatenate(run(tmp_path / "parts.onnx"), axis=1)
    model = onnx.load(tmp_path / "parts.onnx")
    (name,) = linears(model.graph, "vision.blocks.0")
    assert name == "vision.blocks.0/attn.qkv"
    model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    onnx.save(model, tmp_path / "exposed.onnx")
    np.testing.assert_allclose(run(tmp_path / "exposed.onnx", [name])[0], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("form", ["float", "int8", "int8 together"])
def test_a_cpu_cuts_weights_when_it_loads_them(form: str, tmp_path: Path) -> None:
    save("cpu", form, 3, tmp_path / "parts.onnx")
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    ort.InferenceSession(tmp_path / "parts.onnx", options, providers=["CPUExecutionProvider"])
    operators = Counter(node.op_type for node in onnx.load(tmp_path / "loaded.onnx").graph.node)
    assert "Split" not in operators
