"""Operators of newer opsets, written out in operators of opset 17: for engines that do not support the newer ones.

Values have the shapes that the operators' specifications give, except where a docstring says otherwise.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from onnxscript import OpBuilder

from . import reduce, split

CHUNKS = 8
"""Parts of the queries in full attention: each has a score matrix of patches / CHUNKS × patches."""
HIDDEN = {ir.DataType.FLOAT16: -3e4, ir.DataType.FLOAT: -1e30}
"""The score of a masked key per type: finite, since engines differ in how they compute with infinity."""
BIAS = "attention bias"
"""Key in the `meta` of a mask for its bias, which all layers share."""


def rms_norm(op: OpBuilder, x: ir.Value, weight: ir.Value, eps: float) -> ir.Value:
    """RMSNormalization (opset 23) over the last axis, in the form that engines recognize."""
    mean = reduce(op, "ReduceMean", op.Pow(x, op.Constant(value_float=2.0)))
    root = op.Sqrt(op.Add(mean, op.Constant(value_float=eps)))
    return op.Mul(op.Mul(x, op.Div(op.Constant(value_float=1.0), root)), weight)


def swish(op: OpBuilder, x: ir.Value, slope: float) -> ir.Value:
    """Swish (opset 24): x · sigmoid(slope · x)."""
    scaled = x if slope == 1.0 else op.Mul(x, op.Constant(value_float=slope))
    return op.Mul(x, op.Sigmoid(scaled))


def gelu(op: OpBuilder, x: ir.Value, tanh: bool) -> ir.Value:
    """Gelu (opset 20), by erf or by its approximation with tanh."""
    if tanh:
        cube = op.Mul(op.Pow(x, op.Constant(value_float=3.0)), op.Constant(value_float=0.044715))
        curve = op.Tanh(op.Mul(op.Add(x, cube), op.Constant(value_float=float(np.sqrt(2 / np.pi)))))
    else:
        curve = op.Erf(op.Div(x, op.Constant(value_float=float(np.sqrt(2)))))
    return op.Mul(op.Mul(x, op.Add(curve, op.Constant(value_float=1.0))), op.Constant(value_float=0.5))


def rotary(op: OpBuilder, x: ir.Value, cos: ir.Value, sin: ir.Value, num_heads: int) -> ir.Value:
    """RotaryEmbedding (opset 23) of [batch, tokens, features]; cos and sin [batch, tokens, head_dim / 2]."""
    heads = op.Reshape(x, op.Constant(value_ints=[0, 0, num_heads, -1]))
    low, high = split(op, heads, -1, 2)
    cos, sin = (op.Unsqueeze(table, op.Constant(value_ints=[2])) for table in (cos, sin))
    turned = op.Concat(
        op.Sub(op.Mul(low, cos), op.Mul(high, sin)), op.Add(op.Mul(low, sin), op.Mul(high, cos)), axis=-1
    )
    return op.Reshape(turned, op.Constant(value_ints=[0, 0, -1]))


def write_tokens(op: OpBuilder, past: ir.Value, new: ir.Value, start: ir.Value) -> ir.Value:
    """TensorScatter (opset 24) along axis 2: `past` [1, heads, capacity, dim] with `new` from `start` [1] on."""
    count = op.Squeeze(op.Shape(new, start=2, end=3))
    numbers = op.Range(op.Constant(value_int=0), count, op.Constant(value_int=1))
    column = op.Unsqueeze(op.Add(numbers, start), op.Constant(value_ints=[1]))
    return op.ScatterElements(past, op.Expand(column, op.Shape(new)), new, axis=2)


def scaled(op: OpBuilder, q: ir.Value, head_dim: int) -> ir.Value:
    """Queries divided by √head_dim, which is done in float32, before products in float16."""
    return op.Mul(q, op.Constant(value_float=head_dim**-0.5))


def by_head(op: OpBuilder, x: ir.Value, num_heads: int) -> ir.Value:
    """[batch, tokens, features] as [batch, heads, tokens, dim]."""
    return op.Transpose(op.Reshape(x, op.Constant(value_ints=[0, 0, num_heads, -1])), perm=[0, 2, 1, 3])


def by_token(op: OpBuilder, x: ir.Value) -> ir.Value:
    """[batch, heads, tokens, dim] as [batch, tokens, features]."""
    return op.Reshape(op.Transpose(x, perm=[0, 2, 1, 3]), op.Constant(value_ints=[0, 0, -1]))


def attention(
    op: OpBuilder, q: ir.Value, k: ir.Value, v: ir.Value, num_heads: int, type: ir.DataType, mask: ir.Value | None
) -> ir.Value:
    """Attention (opset 23) of [batch, tokens, features] with as many heads of keys as of queries, which are `scaled`.

    Without a mask, queries are taken in CHUNKS parts, so that no matrix of all patches × all patches is needed.
    """
    q, k, v = (by_head(op, x, num_heads) for x in (q, k, v))
    keys = op.Transpose(k, perm=[0, 1, 3, 2])
    if mask is not None:
        y = _attend(op, q, keys, v, type, bias(op, mask, type))
    else:
        y = op.Concat(*[_attend(op, part, keys, v, type, None) for part in _chunks(op, q)], axis=2)
    return by_token(op, y)


def grouped_attention(
    op: OpBuilder, q: ir.Value, k: ir.Value, v: ir.Value, groups: int, type: ir.DataType, mask: ir.Value
) -> ir.Value:
    """Attention (opset 23) of `scaled` q [1, heads, tokens, dim] over k and v [1, heads / groups, keys, dim].

    The heads that share keys are rows of one product, so that keys are never repeated.
    """
    if groups == 1:
        return _attend(op, q, op.Transpose(k, perm=[0, 1, 3, 2]), v, type, bias(op, mask, type))
    k, v = (op.Unsqueeze(x, op.Constant(value_ints=[2])) for x in (k, v))
    dim = op.Shape(q, start=2)
    shared = op.Reshape(q, op.Concat(op.Constant(value_ints=[1, -1, groups]), dim, axis=0))
    y = _attend(op, shared, op.Transpose(k, perm=[0, 1, 2, 4, 3]), v, type, bias(op, mask, type))
    return op.Reshape(y, op.Concat(op.Constant(value_ints=[1, -1]), dim, axis=0))


def bias(op: OpBuilder, mask: ir.Value, type: ir.DataType) -> ir.Value:
    """What is added to scores for a bool mask; made once and shared by all layers."""
    if BIAS not in mask.meta:
        seen, hidden = (op.Constant(value=ir.tensor(np.array(x, type.numpy()))) for x in (0.0, HIDDEN[type]))
        mask.meta[BIAS] = op.Where(mask, seen, hidden)
    found: ir.Value = mask.meta[BIAS]
    return found


class Blocks(NamedTuple):
    """The shape of a quantized matrix, of which `size` values along `axis` share a scale."""

    shape: tuple[int, ...]
    axis: int
    size: int


def dequantize(
    op: OpBuilder, parts: tuple[ir.Value, ir.Value, ir.Value | None], blocks: Blocks, type: ir.DataType
) -> ir.Value:
    """Blockwise DequantizeLinear (opset 21) of codes, scales and zero points."""
    (codes, scales, zeros), (shape, axis, size) = parts, blocks
    inner = op.Constant(value_ints=[axis + 1])
    apart = [*shape[:axis], shape[axis] // size, size, *shape[axis + 1 :]]
    values = op.Cast(op.Reshape(codes, op.Constant(value_ints=apart)), to=type)
    if zeros is not None:
        values = op.Sub(values, op.Cast(op.Unsqueeze(zeros, inner), to=type))
    return op.Reshape(op.Mul(values, op.Unsqueeze(scales, inner)), op.Constant(value_ints=list(shape)))


def _attend(
    op: OpBuilder, q: ir.Value, keys: ir.Value, v: ir.Value, type: ir.DataType, bias: ir.Value | None
) -> ir.Value:
    """softmax(q · keys + bias) · v; `keys` are transposed."""
    scores = op.MatMul(q, keys)
    return op.MatMul(op.Softmax(scores if bias is None else op.Add(scores, bias), axis=-1), v)


def _chunks(op: OpBuilder, q: ir.Value) -> list[ir.Value]:
    """The tokens of q [batch, heads, tokens, dim] in CHUNKS parts; those of few tokens may be empty."""
    most = op.Add(op.Shape(q, start=2, end=3), op.Constant(value_ints=[CHUNKS - 1]))
    size = op.Div(most, op.Constant(value_ints=[CHUNKS]))
    bounds = split(op, op.Mul(size, op.Constant(value_ints=list(range(CHUNKS + 1)))), 0, CHUNKS + 1)
    axes = op.Constant(value_ints=[2])
    return [op.Slice(q, first, end, axes) for first, end in itertools.pairwise(bounds)]
