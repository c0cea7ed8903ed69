"""Modules that both towers use; attribute names are the names of the checkpoint's tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnxscript import OpBuilder, nn

from ..families.spec import Activation, Norm, Yarn
from ..targets import Target
from .scale_folds import Fold


class Weight(nn.Parameter):
    """A tensor of the checkpoint: `shape` and `dtype` as in the graph, `source_shape` as in the checkpoint."""

    def __init__(self, shape: list[int], dtype: ir.DataType, source_shape: list[int] | None = None) -> None:
        super().__init__(shape, dtype=dtype)
        self.source_shape = tuple(source_shape or shape)


def constant(op: OpBuilder, value: np.ndarray, name: str) -> ir.Value:
    """Returns a small table stored inside the graph file."""
    return op.initializer(ir.tensor(value, name=name), name)


class Linear(nn.Module):
    """x · weightᵀ + bias; `input` is its latest x, which calibration reads.

    `exceeds_fp16` marks a linear known to read or produce values beyond float16's 65,504.
    """

    input: ir.Value
    integer = False
    """Whether the product is computed in integers."""

    def __init__(
        self,
        target: Target,
        inputs: int,
        outputs: int,
        bias: bool = True,
        source_shape: list[int] | None = None,
        name: str | None = None,
        exceeds_fp16: bool = False,
    ) -> None:
        super().__init__(name)
        self.target, self.rows, self.columns, self.exceeds_fp16 = target, outputs, inputs, exceeds_fp16
        self.weight = Weight([outputs, inputs], target.weight_type, source_shape)
        self.bias = Weight([outputs], ir.DataType.FLOAT) if bias else None

    def forward(self, op: OpBuilder, x: ir.Value, parts: int = 1) -> ir.Value | Sequence[ir.Value]:
        """Returns the product, or its columns split into equal `parts`."""
        self.input = x
        if parts > 1:
            return self.target.linear_parts(op, x, self.weight, self.bias, parts)
        return self.target.linear(op, x, self.weight, self.bias, self.exceeds_fp16)


class FloatLinear(nn.Module):
    """x · weightᵀ without a bias, which is never quantized."""

    def __init__(self, target: Target, inputs: int, outputs: int) -> None:
        super().__init__()
        self.target = target
        self.weight = Weight([outputs, inputs], target.weight_type)

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        return self.target.linear(op, x, self.weight, None)


class Embedding(nn.Module):
    """Rows of a table; `head` uses the same table as the output projection of tied models."""

    def __init__(self, target: Target, rows: int, size: int, name: str | None = None) -> None:
        super().__init__(name)
        self.target, self.rows, self.columns = target, rows, size
        self.weight = Weight([rows, size], target.weight_type)

    def forward(self, op: OpBuilder, ids: ir.Value) -> ir.Value:
        return self.target.embedding(op, ids, self.weight)

    def head(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        return self.target.linear(op, x, self.weight, None)


class Table(nn.Module):
    """A learned table that is used whole, [1, rows, size] in float32."""

    def __init__(self, target: Target, rows: int, size: int) -> None:
        super().__init__()
        self.weight = Weight([rows, size], target.weight_type)

    def forward(self, op: OpBuilder) -> ir.Value:
        rows = op.Cast(self.weight, to=ir.DataType.FLOAT)
        return op.Unsqueeze(rows, op.Constant(value_ints=[0]))


class AddNorm(nn.Module):
    """The norm of x + delta; returns (normalized, x + delta), the sum named `name` if given."""

    def __init__(self, target: Target, size: int, kind: Norm, eps: float, name: str | None = None) -> None:
        super().__init__(name)
        self.target, self.kind, self.eps = target, kind, eps
        self.weight = Weight([size], ir.DataType.FLOAT)
        self.bias = Weight([size], ir.DataType.FLOAT) if kind == "layer" else None

    def forward(
        self, op: OpBuilder, x: ir.Value, delta: ir.Value | None = None, name: str | None = None
    ) -> tuple[ir.Value, ir.Value]:
        if self.bias is not None:
            y, total = self.target.layer_norm(op, x, delta, self.weight, self.bias, self.eps)
        else:
            y, total = self.target.rms_norm(op, x, delta, self.weight, self.eps)
        if name:
            total.name = name
        return y, total


class Activate(nn.Module):
    """An activation as a separate layer."""

    def __init__(self, target: Target, kind: Activation) -> None:
        super().__init__()
        self.target, self.kind = target, kind

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        return self.target.activation(op, x, self.kind)


class Mlp(nn.Module):
    """fc2(act(fc1(x))); the linears are called `fc` and a number."""

    def __init__(
        self,
        target: Target,
        size: int,
        inner: int,
        outputs: int,
        activation: Activation,
        fc: str = "fc",
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self.target, self.activation, self.names = target, activation, (f"{fc}1", f"{fc}2")
        setattr(self, self.names[0], Linear(target, size, inner, exceeds_fp16=True))  # needed for Qwen3-VL's linear_fc1
        setattr(self, self.names[1], Linear(target, inner, outputs, exceeds_fp16=True))

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        first, second = (getattr(self, name) for name in self.names)
        return second(op, self.target.activation(op, first(op, x), self.activation))


class GatedMlp(nn.Module):
    """down_proj(act(gate_proj(x)) · up_proj(x))."""

    def __init__(self, target: Target, size: int, inner: int, activation: Activation, bias: bool) -> None:
        super().__init__()
        self.target, self.activation = target, activation
        self.gate_proj = Linear(target, size, inner, bias)
        self.up_proj = Linear(target, size, inner, bias)
        self.down_proj = Linear(target, inner, size, bias, exceeds_fp16=True)  # needed for Qwen2.5-VL's last block

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        gate = self.target.activation(op, self.gate_proj(op, x), self.activation)
        return self.down_proj(op, self.target.gated(op, gate, self.up_proj(op, x)))

    def fold(self, name: str) -> Fold:
        """The fold into `up_proj`: the product is linear in its output."""
        return Fold((f"{name}.down_proj",), f"{name}.up_proj", np.arange(self.up_proj.rows))


def inverse_frequencies(dim: int, theta: float, yarn: Yarn | None = None) -> np.ndarray:
    """θ^(−2i/dim) for i < dim / 2, float32 (RoFormer, arXiv 2104.09864, §3.2.2); YaRN slows some of them down."""
    plain = theta ** -(np.arange(0, dim, 2, dtype=np.float64) / dim)
    if yarn is None:
        return np.asarray(plain, dtype=np.float32)
    slowed = _yarn_ramp(dim, theta, yarn)
    return np.asarray(plain * (1 - slowed) + plain / yarn.factor * slowed, dtype=np.float32)


def _yarn_ramp(dim: int, theta: float, yarn: Yarn) -> np.ndarray:
    """Weight of the slowed frequency, 0 to 1, for each frequency: [dim / 2] (arXiv 2309.00071, §3.2)."""
    low, high = (
        dim * np.log(yarn.original_length / (turns * 2 * np.pi)) / (2 * np.log(theta))
        for turns in (yarn.beta_fast, yarn.beta_slow)
    )
    if yarn.truncate:
        low, high = np.floor(low), np.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    return np.clip((np.arange(dim // 2) - low) / (high - low if high != low else 0.001), 0, 1)
