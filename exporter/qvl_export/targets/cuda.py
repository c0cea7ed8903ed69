"""Target `cuda`: ONNX Runtime's fused operators on NVIDIA GPUs.

Like `cpu`, with matrix products, attention and the KV cache in float16 (see `_fp16_products`); residual streams, norms
and rotary angles stay float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
from onnxscript import OpBuilder

from ..errors import ExportError
from ..qtensor import QuantFormat
from . import WEIGHT_TYPES, Cache, PackedWeight, WindowInputs, largest_of_tokens, ordered
from ._fp16_products import HalfProducts
from ._w8a8 import MICROSOFT, ROUNDED
from .cpu import CpuTarget

INT8 = ir.DataType.INT8
NO_EXPERTS = ExportError(
    "experts are not supported on target 'cuda'", fix="export with --target portable, tensorrt-rtx or cpu"
)
"""CUDA's MoE needs weights in its own tile order, which could not be tested."""


def lower(precision: str, accuracy_level: int) -> CudaTarget:
    """Returns the ops with float weights in `fp32` or `fp16`, and products computed in that type."""
    return CudaTarget(WEIGHT_TYPES[precision], accuracy_level)


@dataclass(frozen=True)
class CudaTarget(HalfProducts, CpuTarget):
    """ONNX Runtime on a GPU, see `targets.Target`."""

    no_experts: ClassVar[ExportError] = NO_EXPERTS
    per_tensor_activations: bool = False
    byte_products: bool = False
    int8_attention: bool | None = None

    def linear(
        self, op: OpBuilder, x: ir.Value, weight: ir.Value, bias: ir.Value | None, exceeds_fp16: bool = False
    ) -> ir.Value:
        x, largest = self.in_range(op, x, exceeds_fp16)
        y = op.FusedMatMul(x, weight, transB=1, _domain=MICROSOFT)
        return self.out_of_range(op, y, largest, bias)

    def packed_form(self, outputs: int, inputs: int, format: QuantFormat) -> dict[str, tuple[list[int], ir.DataType]]:
        """The form of `cpu`, except that MatMulNBits takes scales in the type of its inputs."""
        form = super().packed_form(outputs, inputs, format)
        return form if format.integer else form | {"scales": (form["scales"][0], self.weight_type)}

    def quantized_linear(
        self, op: OpBuilder, x: ir.Value, weight: PackedWeight, bias: ir.Value | None, exceeds_fp16: bool = False
    ) -> ir.Value:
        if weight.format.integer:
            return self._integer_linear(op, x, weight.parts, bias)
        x, largest = self.in_range(op, ordered(op, x, weight), exceeds_fp16)
        return self.out_of_range(op, self.blocks_product(op, x, weight, None), largest, bias)

    def _integer_linear(
        self, op: OpBuilder, x: ir.Value, parts: Mapping[str, ir.Value], bias: ir.Value | None
    ) -> ir.Value:
        """Rounds inputs per token; scales are separate nodes, as no operator scales the integer product."""
        if ROUNDED not in x.meta:
            largest, step = largest_of_tokens(op, x), op.Constant(value_float=1 / 127)
            x.meta[ROUNDED] = op.QuantizeLinear(op.Div(x, largest), step, output_dtype=INT8), op.Mul(largest, step)
        codes, steps = x.meta[ROUNDED]
        y = op.Cast(op.MatMulInteger(codes, parts["codes"]), to=ir.DataType.FLOAT)
        y = op.Mul(op.Mul(y, parts["scales"]), steps)
        return y if bias is None else op.Add(y, bias)

    def quantized_embedding(self, op: OpBuilder, ids: ir.Value, table: PackedWeight) -> ir.Value:
        return self.widen(op, super().quantized_embedding(op, ids, table))

    def experts(
        self, op: OpBuilder, x: ir.Value, scores: ir.Value, gate_up: ir.Value, down: ir.Value, chosen: int
    ) -> ir.Value:
        raise self.no_experts

    def packed_experts_form(
        self, experts: int, outputs: int, inputs: int, format: QuantFormat
    ) -> dict[str, tuple[list[int], ir.DataType]]:
        raise self.no_experts

    def attend(
        self, op: OpBuilder, q: ir.Value, k: ir.Value, v: ir.Value, num_heads: int, windows: WindowInputs | None
    ) -> ir.Value:
        lengths = [] if windows is None else [None, windows.lengths]
        return op.MultiHeadAttention(q, k, v, *lengths, num_heads=num_heads, _domain=MICROSOFT)

    def causal_attention(
        self, op: OpBuilder, q: ir.Value, k: ir.Value, v: ir.Value, cache: Cache, num_heads: int, kv_heads: int
    ) -> tuple[ir.Value, ir.Value, ir.Value]:
        q, k, v = (self.narrow(op, x) for x in (q, k, v))
        y, key, value = super().causal_attention(op, q, k, v, cache, num_heads, kv_heads)
        return self.widen(op, y), key, value
