"""Matrix products in float16 with float32 inputs and outputs, shared by several targets."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
from onnxscript import OpBuilder

from . import WindowInputs, largest_of_tokens
from ._standard import FLOAT, StandardOps


@dataclass(frozen=True)
class HalfProducts(StandardOps):
    """Computes products in float16 if weights are float16, and returns float32, so that other values never overflow."""

    @property
    def cache_type(self) -> ir.DataType:
        return self.weight_type

    def narrow(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        """x in the type of products."""
        return x if self.weight_type == FLOAT else op.Cast(x, to=self.weight_type)

    def product(
        self, op: OpBuilder, x: ir.Value, matrix: ir.Value, bias: ir.Value | None, exceeds_fp16: bool = False
    ) -> ir.Value:
        """x · matrix + bias; with `exceeds_fp16`, tokens are scaled into range before the product."""
        x, largest = self.in_range(op, x, exceeds_fp16)
        return self.out_of_range(op, op.MatMul(x, matrix), largest, bias)

    def in_range(self, op: OpBuilder, x: ir.Value, exceeds_fp16: bool) -> tuple[ir.Value, ir.Value | None]:
        """Returns x in the type of products, and the divisor of its tokens or None."""
        if not exceeds_fp16 or self.weight_type == FLOAT:
            return self.narrow(op, x), None
        largest = largest_of_tokens(op, x)
        return self.narrow(op, op.Div(x, largest)), largest

    def out_of_range(self, op: OpBuilder, y: ir.Value, largest: ir.Value | None, bias: ir.Value | None) -> ir.Value:
        """Undoes `in_range` on a product: y times `largest`, plus the bias."""
        y = self.widen(op, y)
        y = y if largest is None else op.Mul(y, largest)
        return y if bias is None else op.Add(y, bias)

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
        q, k, v = (self.narrow(op, x) for x in (q, k, v))
        return self.widen(op, super().vision_attention(op, q, k, v, num_heads, windows, integer))
