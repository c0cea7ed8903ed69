"""A gated MLP in int8, whose up projection's scales wait for the down projection, against arithmetic in float64."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnxscript import GraphBuilder

from qvl_export.evaluate.trace.expose_graph import linears
from qvl_export.graph.build import FLOAT, add_input, add_output, empty_graph, finished
from qvl_export.graph.layers import GatedMlp
from qvl_export.graph.quantized import quantize
from qvl_export.qtensor import Activations, QTensor
from qvl_export.quant.calibration.layer_session import open_session
from qvl_export.quant.output_error import round_per_tensor, round_per_token
from qvl_export.quant.schemes import Options, find
from qvl_export.targets import DEFERRED_SCALE, lower

SIZE, INNER, TOKENS = 64, 96, 7
FORMS = ("int8", "int8 together", "float")
ACTIVATIONS = {"int8": Activations.INT8_PER_TOKEN, "int8 together": Activations.INT8_PER_TENSOR}
PREFIX = "model.layers.0.mlp"
Floats = np.ndarray


def weights(draw: np.random.Generator, cpu: str) -> dict[str, tuple[Floats, QTensor]]:
    """Float and quantized, by the names of the linears."""
    shapes = {"gate_proj": (INNER, SIZE), "up_proj": (INNER, SIZE), "down_proj": (SIZE, INNER)}
    scheme, found = find("int8", Options(cpu=cpu)), {}
    for name, shape in shapes.items():
        weight = draw.standard_normal(shape).astype(np.float32)
        found[name] = weight, scheme.quantize(weight, None)
    return found


def applied(x: Floats, form: str, weight: tuple[Floats, QTensor]) -> Floats:
    """x · weightᵀ as a linear of that form sees both, in float64."""
    if form == "float":
        return x.astype(np.float64) @ weight[0].T
    narrow = np.asarray(x, np.float32)
    seen = round_per_token(narrow) if form == "int8" else round_per_tensor(narrow, float(np.abs(narrow).max()))
    return seen.astype(np.float64) @ weight[1].dequantize().T


def save(forms: dict[str, str], used: dict[str, tuple[Floats, QTensor]], path: Path) -> None:
    """The graph x → y that `cpu` makes of the MLP."""
    target = lower("cpu", "fp32")
    graph = empty_graph("mlp", target)
    x, mlp = add_input(graph, "x", FLOAT, [1, "tokens", SIZE]), GatedMlp(target, SIZE, INNER, "silu", bias=False)
    mlp._set_name(PREFIX)
    formats = {
        f"{PREFIX}.{name}": replace(used[name][1].format, activations=ACTIVATIONS[form])
        for name, form in forms.items()
        if form != "float"
    }
    quantize(mlp, PREFIX, formats)
    add_output(graph, mlp(GraphBuilder(graph).op, x), "y", None)
    for name, value in graph.initializers.items():
        linear, part = name.removeprefix(f"{PREFIX}.").split(".")
        weight, tensor = used[linear]
        value.const_value = ir.tensor(weight if part == "weight" else target.pack(tensor)[part], name=name)
    ir.save(finished(graph, target), path)


@pytest.mark.parametrize("cpu", ["any", "vnni"])
@pytest.mark.parametrize("forms", product(FORMS, FORMS, FORMS), ids=", ".join)
def test_scales_come_in_once_in_every_mixture(forms: tuple[str, str, str], cpu: str, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    used, named = weights(draw, cpu), dict(zip(("gate_proj", "up_proj", "down_proj"), forms, strict=True))
    x = draw.standard_normal((TOKENS, SIZE)).astype(np.float32)
    x[1], x[2] = x[1] * 1000, 0
    save(named, used, tmp_path / "m.onnx")
    y = open_session(tmp_path / "m.onnx").run(None, {"x": x[None]})[0][0]
    gate, up = (applied(x, named[name], used[name]) for name in ("gate_proj", "up_proj"))
    expected = applied(gate * (1 + np.tanh(gate / 2)) / 2 * up, named["down_proj"], used["down_proj"])
    for token, (one, two) in enumerate(zip(y, expected, strict=True)):
        scale = np.abs(expected if "int8 together" in forms else two).max()
        assert np.abs(one - two).max() <= 1e-5 * scale, token


@pytest.mark.parametrize("down", FORMS)
def test_what_blame_looks_at_has_its_scales(down: str, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    used, x = weights(draw, "any"), draw.standard_normal((TOKENS, SIZE)).astype(np.float32)
    save({"gate_proj": "int8", "up_proj": "int8", "down_proj": down}, used, tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    assert any(item.key == DEFERRED_SCALE for node in model.graph.node for item in node.metadata_props)
    assert "llm.layers.0/mlp.up_proj" in linears(model.graph, "llm.layers.0")
    model.graph.output.append(
        onnx.helper.make_tensor_value_info("llm.layers.0/mlp.up_proj", onnx.TensorProto.FLOAT, None)
    )
    onnx.save(model, tmp_path / "exposed.onnx")
    up = open_session(tmp_path / "exposed.onnx").run(["llm.layers.0/mlp.up_proj"], {"x": x[None]})[0][0]
    np.testing.assert_allclose(up, applied(x, "int8", used["up_proj"]), rtol=1e-4, atol=1e-3)
