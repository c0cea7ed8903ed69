"""W8A8 in ONNX Runtime on a CPU: inputs rounded to 8 bits, an integer product, scales applied as late as possible."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from onnxscript import OpBuilder

from . import DEFERRED_SCALE, largest_of_tokens

MICROSOFT = "com.microsoft"
ROUNDED = "rounded to int8"
"""Key in a value's `meta` for its `Tokens`."""
ROUNDED_PER_TENSOR = "rounded to int8 per tensor"
"""Key in a value's `meta` for its codes, their scale and zero point."""
UNSCALED = "before its tokens were scaled"
"""Key in a value's `meta` for the value before scaling, and the per-token factors [batch, tokens, 1]."""
ZERO = np.array(128, np.uint8)
"""The code of zero."""


class Tokens(NamedTuple):
    """Activations rounded per token: `codes` uint8 [T, K], `steps` […, 1], and the `shape` […, −1] of products."""

    codes: ir.Value
    steps: ir.Value
    shape: ir.Value


def w8a8_per_token(op: OpBuilder, x: ir.Value, parts: Mapping[str, ir.Value], bias: ir.Value | None) -> ir.Value:
    """Rounds each token by its own largest magnitude, so that its result has the same bits alone and in a batch."""
    tokens = _rounded(op, x)
    one, zero = op.Constant(value_float=1.0), op.Constant(value=ir.tensor(ZERO))
    y = op.MatMulIntegerToFloat(tokens.codes, parts["codes"], one, parts["scales"], zero, _domain=MICROSOFT)
    unscaled = op.Reshape(y, tokens.shape)
    y = op.Mul(unscaled, tokens.steps)
    if bias is not None:
        return op.Add(y, bias)
    y.meta[UNSCALED] = unscaled, tokens.steps
    return y


def w8a8_per_tensor(op: OpBuilder, x: ir.Value, parts: Mapping[str, ir.Value], bias: ir.Value | None) -> ir.Value:
    """Rounds all tokens with one scale and zero point, so that scales and bias are applied inside the product."""
    if ROUNDED_PER_TENSOR not in x.meta:
        x.meta[ROUNDED_PER_TENSOR] = op.DynamicQuantizeLinear(x, _outputs=3)
    codes, step, zero = x.meta[ROUNDED_PER_TENSOR]
    return op.MatMulIntegerToFloat(codes, parts["codes"], step, parts["scales"], zero, None, bias, _domain=MICROSOFT)


def gated(op: OpBuilder, gate: ir.Value, up: ir.Value) -> ir.Value:
    """gate · up. The scales of `up` can be deferred to the next integer product: rounding does not depend on them."""
    y = op.Mul(gate, up)
    if UNSCALED in up.meta:
        unscaled, factors = up.meta[UNSCALED]
        unscaled.producer().metadata_props[DEFERRED_SCALE] = factors.name
        y.meta[UNSCALED] = op.Mul(gate, unscaled), factors
    return y


def _rounded(op: OpBuilder, x: ir.Value) -> Tokens:
    """Rounds x per token, once for all linears that share it."""
    if ROUNDED not in x.meta:
        values, factors = x.meta.get(UNSCALED, (x, None))
        steps = op.Mul(largest_of_tokens(op, values), op.Constant(value_float=1 / 127))
        zero = op.Constant(value=ir.tensor(ZERO))
        flat = op.Reshape(steps, op.Constant(value_ints=[-1]))
        rows = op.Flatten(values, axis=-1)
        codes = op.QuantizeLinear(rows, flat, op.Expand(zero, op.Shape(flat)), axis=0)
        shape = op.Concat(op.Shape(values, start=0, end=-1), op.Constant(value_ints=[-1]), axis=0)
        x.meta[ROUNDED] = Tokens(codes, steps if factors is None else op.Mul(steps, factors), shape)
    found: Tokens = x.meta[ROUNDED]
    return found
