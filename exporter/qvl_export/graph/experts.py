"""A mixture of experts instead of an MLP: a router, and the matrices of all experts in two tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnxscript import OpBuilder, nn

from ..checkpoint.safetensors_reader import CHUNK_BYTES, Array, Tensor
from ..families.spec import MoeSpec
from ..targets import Target
from .layers import FloatLinear, GatedMlp, Weight

EXPERT_PARTS = "gate_up_proj", "down_proj"


class ExpertWeight(Weight):
    """The matrices of all experts [experts, out, in]; `rows` is the order of an expert's rows in the graph."""

    def __init__(self, shape: list[int], dtype: ir.DataType, rows: np.ndarray | None = None) -> None:
        super().__init__(shape, dtype)
        self.rows = rows


class Router(nn.Module):
    """Scores every expert for every token, [tokens, experts]; never quantized.

    `input` and `scores` are its latest input and output, which calibration reads.
    """

    input: ir.Value
    scores: ir.Value

    def __init__(self, target: Target, hidden_size: int, num_experts: int) -> None:
        super().__init__()
        self.target, self.num_experts = target, num_experts
        self.weight = Weight([num_experts, hidden_size], target.weight_type)

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        scores = self.target.linear(op, x, self.weight, None)
        self.input, self.scores = x, op.Reshape(scores, op.Constant(value_ints=[-1, self.num_experts]))
        return self.scores


class Experts(nn.Module):
    """The sum of the chosen experts' gated MLPs, weighted by their scores' softmax; see `Target.experts`."""

    def __init__(self, target: Target, hidden_size: int, spec: MoeSpec) -> None:
        super().__init__()
        self.target, self.spec, self.hidden_size = target, spec, hidden_size
        inner, rows = spec.intermediate_size, target.gate_up_rows(spec.intermediate_size)
        self.gate_up_proj = ExpertWeight([spec.num_experts, 2 * inner, hidden_size], target.weight_type, rows)
        self.down_proj = ExpertWeight([spec.num_experts, hidden_size, inner], target.weight_type)

    def forward(self, op: OpBuilder, x: ir.Value, scores: ir.Value) -> ir.Value:
        return self.target.experts(op, x, scores, self.gate_up_proj, self.down_proj, self.spec.experts_per_token)


class SparseMlp(nn.Module):
    """Router and experts, and the shared expert that every token uses, times a gate of its own."""

    def __init__(self, target: Target, hidden_size: int, spec: MoeSpec) -> None:
        super().__init__()
        self.gate = Router(target, hidden_size, spec.num_experts)
        self.experts = Experts(target, hidden_size, spec)
        shared = spec.shared_size
        self.shared_expert = GatedMlp(target, hidden_size, shared, "silu", bias=False) if shared else None
        self.shared_expert_gate = FloatLinear(target, hidden_size, 1) if shared else None

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        y = self.experts(op, x, self.gate(op, x))
        if self.shared_expert is None or self.shared_expert_gate is None:
            return y
        return op.Add(y, op.Mul(op.Sigmoid(self.shared_expert_gate(op, x)), self.shared_expert(op, x)))


@dataclass(frozen=True)
class StoredExperts:
    """Experts of a checkpoint in the graph's form: [experts, out, in] with rows in the graph's order.

    `transposed` is set if the checkpoint stores [experts, in, out], as the published ones do.
    """

    tensor: Tensor
    transposed: bool
    rows: np.ndarray | None

    @property
    def name(self) -> str:
        return self.tensor.name

    @property
    def file(self) -> Path:
        return self.tensor.file

    @property
    def nbytes(self) -> int:
        return self.tensor.nbytes

    def chunks(self, chunk_bytes: int = CHUNK_BYTES) -> Iterator[Array]:
        """Yields one flat expert at a time; as many as fit in `chunk_bytes` are read together."""
        for chunk in self.tensor.chunks(chunk_bytes):
            stored = chunk.view(f"u{chunk.itemsize}").reshape(-1, *self.tensor.shape[1:])  # bfloat16 copies slowly
            for matrix in stored:
                oriented = matrix.T if self.transposed else matrix
                ordered = oriented if self.rows is None else oriented[self.rows]
                yield np.ascontiguousarray(ordered).reshape(-1).view(chunk.dtype)


def is_transposed(name: str, weights: Mapping[str, Weight], tensors: Mapping[str, Tensor]) -> bool:
    """Whether a checkpoint stores experts as [experts, in, out]; for square ones the layer's other tensor decides."""
    wanted = weights[name].source_shape
    if wanted[1] != wanted[2]:
        return tensors[name].shape != wanted
    layer = name.rpartition(".")[0]
    others = [other for other in weights if other.rpartition(".")[0] == layer and other != name]
    return any(tensors[other].shape != weights[other].source_shape for other in others)
