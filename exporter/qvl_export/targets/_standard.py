"""Operators that targets share: standard ones, and the rearrangement of patches into windows around attention."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import onnx_ir as ir
from onnxscript import OpBuilder

from qvl_runtime.manifest import CacheForm

from ..errors import ExportError
from ..qtensor import QuantFormat
from . import SWISH_SLOPE, PackedWeight, WindowInputs, split

FLOAT = ir.DataType.FLOAT


@dataclass(frozen=True)
class StandardOps(ABC):
    """Base of a `targets.Target` whose values between operators are float32."""

    weight_type: ir.DataType

    @property
    def has_int4(self) -> bool:
        return True

    @property
    def largest_file(self) -> int | None:
        """See `targets.Target`."""
        return None

    def for_int4(self) -> Self:
        """See `targets.Target`."""
        return self

    @property
    def cache_form(self) -> CacheForm:
        return "scatter"

    @property
    def int8_attention(self) -> bool | None:
        """See `targets.Target`."""
        return None

    @abstractmethod
    def swish(self, op: OpBuilder, x: ir.Value, slope: float) -> ir.Value:
        """x · sigmoid(slope · x)."""

    @abstractmethod
    def attend(
        self, op: OpBuilder, q: ir.Value, k: ir.Value, v: ir.Value, num_heads: int, windows: WindowInputs | None
    ) -> ir.Value:
        """Attention within each row of the batch; with `windows`, only the first `windows.lengths` patches count."""

    @abstractmethod
    def linear(
        self, op: OpBuilder, x: ir.Value, weight: ir.Value, bias: ir.Value | None, exceeds_fp16: bool = False
    ) -> ir.Value:
        """See `targets.Target`."""

    @abstractmethod
    def quantized_linear(
        self, op: OpBuilder, x: ir.Value, weight: PackedWeight, bias: ir.Value | None, exceeds_fp16: bool = False
    ) -> ir.Value:
        """See `targets.Target`."""

    def linear_parts(
        self, op: OpBuilder, x: ir.Value, weight: ir.Value, bias: ir.Value | None, count: int
    ) -> Sequence[ir.Value]:
        return split(op, self.linear(op, x, weight, bias), -1, count)

    def quantized_linear_parts(
        self, op: OpBuilder, x: ir.Value, weight: PackedWeight, bias: ir.Value | None, count: int
    ) -> Sequence[ir.Value]:
        return split(op, self.quantized_linear(op, x, weight, bias), -1, count)

    def widen(self, op: OpBuilder, y: ir.Value) -> ir.Value:
        """Converts a value of the weights' type to float32."""
        return y if self.weight_type == FLOAT else op.Cast(y, to=FLOAT)

    def embedding(self, op: OpBuilder, ids: ir.Value, weight: ir.Value) -> ir.Value:
        return self.widen(op, op.Gather(weight, ids))

    def layer_norm(
        self, op: OpBuilder, x: ir.Value, delta: ir.Value | None, weight: ir.Value, bias: ir.Value, eps: float
    ) -> tuple[ir.Value, ir.Value]:
        """Uses LayerNormalization: 9 ms at 5,040 × 1,280, while ONNX Runtime's SkipLayerNormalization takes 34 ms."""
        total = x if delta is None else op.Add(x, delta)
        return op.LayerNormalization(total, weight, bias, axis=-1, epsilon=eps), total

    def activation(self, op: OpBuilder, x: ir.Value, kind: str) -> ir.Value:
        if kind in ("gelu", "gelu_tanh"):
            return op.Gelu(x, approximate="tanh" if kind == "gelu_tanh" else "none")
        return self.swish(op, x, SWISH_SLOPE[kind])

    def gated(self, op: OpBuilder, gate: ir.Value, up: ir.Value) -> ir.Value:
        return op.Mul(gate, up)

    def rotary(
        self, op: OpBuilder, x: ir.Value, cos: ir.Value, sin: ir.Value, num_heads: int, rotary_dim: int = 0
    ) -> ir.Value:
        partial = {"rotary_embedding_dim": rotary_dim} if rotary_dim else {}
        return op.RotaryEmbedding(x, cos, sin, num_heads=num_heads, **partial)

    def vision_attention(
        self,
        op: OpBuilder,
        q: ir.Value,
        k: ir.Value,
        v: ir.Value,
        num_heads: int,
        windows: WindowInputs | None,
        integer: bool = False,
    ) -> ir.Value:
        """Gathers windows into rows of the batch for attention, then scatters patches back."""
        if windows is None:
            return self.attend(op, q, k, v, num_heads, None)
        frames, features = op.Shape(q, start=0, end=1), op.Shape(q, start=2, end=3)
        split = op.Concat(op.Constant(value_ints=[-1, windows.size]), features, axis=0)
        q, k, v = (op.Reshape(op.Gather(x, windows.gather, axis=1), split) for x in (q, k, v))
        y = self.attend(op, q, k, v, num_heads, windows)
        joined = op.Concat(frames, op.Constant(value_ints=[-1]), features, axis=0)
        return op.Gather(op.Reshape(y, joined), windows.scatter, axis=1)


def window_mask(op: OpBuilder, windows: WindowInputs) -> ir.Value:
    """Mask of the patches that exist in each window, bool [windows, 1, size, size]."""
    slots = op.Constant(value=ir.tensor(np.tile(np.arange(windows.size, dtype=np.int32), (1, 1, windows.size, 1))))
    return op.Less(slots, op.Unsqueeze(windows.lengths, op.Constant(value_ints=[1, 2, 3])))


def check_experts(inputs: int, format: QuantFormat) -> None:
    """Raises ExportError for formats that experts cannot have: engines take only whole symmetric blocks of them."""
    if inputs % format.block or format.asymmetric or format.permuted:
        raise ExportError(f"experts of {inputs} columns are not made of symmetric blocks of {format.block}")
