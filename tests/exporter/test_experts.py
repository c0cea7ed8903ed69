"""Experts on their own, in ONNX Runtime, against a loop over tokens."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnxscript import GraphBuilder, nn

from qvl_export.errors import ExportError
from qvl_export.families.spec import MoeSpec
from qvl_export.graph import weights
from qvl_export.graph.build import FLOAT, Graph, add_input, add_output, empty_graph
from qvl_export.graph.experts import EXPERT_PARTS, Experts
from qvl_export.graph.quantized import quantize
from qvl_export.qtensor import QuantFormat
from qvl_export.quant.gptq.solver import round_to_nearest
from qvl_export.targets import lower

HIDDEN, SPEC = 96, MoeSpec(num_experts=5, experts_per_token=2, intermediate_size=64, dense_layers=frozenset())
Floats = np.ndarray[Any, np.dtype[np.float32]]


def naive(x: Floats, scores: Floats, gate_up: Floats, down: Floats) -> Floats:
    """Token by token, from the definition; the matrices are as transformers holds them."""
    result = np.zeros_like(x)
    for token, row in enumerate(x):
        chosen = np.argsort(-scores[token])[: SPEC.experts_per_token]
        share = np.exp(scores[token, chosen] - scores[token].max())
        for expert, weight in zip(chosen, share / share.sum(), strict=True):
            gate, up = np.split(gate_up[expert] @ row, 2)
            result[token] += weight * (down[expert] @ (gate / (1 + np.exp(-gate)) * up))
    return result


@pytest.fixture
def values() -> dict[str, Floats]:
    rng = np.random.default_rng(0)
    inner, count = SPEC.intermediate_size, SPEC.num_experts
    shapes = {"gate_up_proj": (count, 2 * inner, HIDDEN), "down_proj": (count, HIDDEN, inner), "x": (23, HIDDEN)}
    shapes["scores"] = (23, count)
    return {name: rng.standard_normal(shape).astype(np.float32) / shape[-1] ** 0.25 for name, shape in shapes.items()}


def run(parts: dict[str, Floats], values: dict[str, Floats], format: QuantFormat | None, work: Path) -> Floats:
    """The graph of one mixture, filled with `parts`."""
    target = lower("cpu", "fp32", 0)
    holder = nn.Module("")
    holder.experts = Experts(target, HIDDEN, SPEC)
    quantize(holder, "", {f"experts.{name}": format for name in EXPERT_PARTS} if format else {})
    graph = empty_graph("experts", target)
    x = add_input(graph, "x", FLOAT, [1, "tokens", HIDDEN])
    scores = add_input(graph, "scores", FLOAT, ["tokens", SPEC.num_experts])
    add_output(graph, holder.experts(GraphBuilder(graph).op, x, scores), "y", [1, "tokens", HIDDEN])
    model = Graph("experts", ir.Model(graph, ir_version=target.ir_version))
    sources: Any = {
        f"experts.{name}": SimpleNamespace(name=name, file=work, nbytes=0, chunks=lambda part=part: [part.ravel()])
        for name, part in parts.items()
    }
    weights.write(model, sources, work / "data", hashlib.sha256(), lambda _: None)
    ir.save(model.model, work / "experts.onnx")
    session = ort.InferenceSession(work / "experts.onnx", providers=["CPUExecutionProvider"])
    return session.run(None, {"x": values["x"][None], "scores": values["scores"]})[0][0]


def in_order(matrices: Floats) -> Floats:
    return matrices[:, lower("cpu", "fp32", 0).gate_up_rows(SPEC.intermediate_size)]


def test_float_experts(values: dict[str, Floats], tmp_path: Path) -> None:
    gate_up, down = (values[name] for name in EXPERT_PARTS)
    expected = naive(values["x"], values["scores"], gate_up, down)
    found = run({"gate_up_proj": in_order(gate_up), "down_proj": down}, values, None, tmp_path)
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(("bits", "close"), [(4, 1e-5), (8, 0.03)])  # its 8-bit kernel rounds activations
@pytest.mark.parametrize("block", [32, 16])
def test_quantized_experts_are_the_dequantized_ones(
    values: dict[str, Floats], tmp_path: Path, bits: int, close: float, block: int
) -> None:
    format, target = QuantFormat(bits, block), lower("cpu", "fp32", 0)
    parts, exact = {}, {}
    for name, matrices in (("gate_up_proj", in_order(values["gate_up_proj"])), ("down_proj", values["down_proj"])):
        tensor = round_to_nearest(matrices.reshape(-1, matrices.shape[-1]), format)
        exact[name] = tensor.dequantize().reshape(matrices.shape)
        parts |= {f"{name}.{kind}": part for kind, part in target.pack(tensor).items()}
    back = np.argsort(target.gate_up_rows(SPEC.intermediate_size))
    expected = naive(values["x"], values["scores"], exact["gate_up_proj"][:, back], exact["down_proj"])
    found = run(parts, values, format, tmp_path)
    assert np.abs(found - expected).max() < close * np.abs(expected).max()


def test_blocks_must_divide_experts() -> None:
    target = lower("cpu", "fp32", 0)
    holder = nn.Module("")
    holder.experts = Experts(target, HIDDEN, SPEC)
    with pytest.raises(ExportError, match="experts of 96 columns are not made of symmetric blocks of 128"):
        quantize(holder, "", {f"experts.{name}": QuantFormat(4, 128) for name in EXPERT_PARTS})
