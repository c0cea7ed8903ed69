"""Attention with int8 products in ONNX Runtime on a CPU: one head after another, queries in chunks.

Queries are rounded per chunk, keys per key and values per channel, the latter two after their means were subtracted;
probabilities are rounded per query. Keys and values have 7-bit codes, whose products cannot saturate on any processor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from onnxscript import OpBuilder

from . import SMALLEST
from ._subgraphs import subgraph
from ._w8a8 import MICROSOFT

LEAST = 1024
"""Fewest patches for which int8 products are faster: below, the many small operators take longer than they save."""
SCORES = 1_300_000
"""Scores that are computed at a time, in 5 MB."""
STEPS = 64
"""Largest code of keys and values: 255 · 64 · 2 fits into the 16 bits of products of bytes on x86 without VNNI."""
PROBABILITIES = 255
"""Largest code of probabilities."""
FLOAT, INT8, UINT8, INT64 = ir.DataType.FLOAT, ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT64


class Head(NamedTuple):
    """Keys and values of one head as codes; `key_scales` [patches] include the scale of scores."""

    keys: ir.Value
    key_scales: ir.Value
    values: ir.Value
    value_scales: ir.Value


def int8_attention(
    op: OpBuilder, q: ir.Value, k: ir.Value, v: ir.Value, num_heads: int, otherwise: Callable[[OpBuilder], ir.Value]
) -> ir.Value:
    """Attention within each row of the batch; q, k, v [frames, patches, features].

    `otherwise` computes it for fewer than LEAST patches.
    """
    enough = op.GreaterOrEqual(op.Shape(q, start=1, end=2), _ints(op, LEAST))
    branches = {
        "then_branch": subgraph(op, "int8", lambda op: _attention(op, q, k, v, num_heads), [FLOAT]),
        "else_branch": subgraph(op, "float", otherwise, [FLOAT]),
    }
    y: ir.Value = op.If(enough, **branches)
    return y


def _attention(op: OpBuilder, q: ir.Value, k: ir.Value, v: ir.Value, num_heads: int) -> ir.Value:
    heads = _ints(op, 0, 0, num_heads, -1)
    q, k, v = (op.Transpose(op.Reshape(x, heads), perm=[0, 2, 1, 3]) for x in (q, k, v))
    patches, size = op.Shape(q, start=2, end=3), op.Shape(q, start=3, end=4)
    flat = op.Concat(_ints(op, -1), patches, size, axis=0)
    q, k, v = (op.Reshape(x, flat) for x in (q, k, v))  # [frames · heads, patches, head_dim]
    chunks = _quotient(op, op.Mul(patches, patches), _ints(op, SCORES))
    chunk = _quotient(op, patches, chunks)
    zeros = op.Sub(op.Mul(chunks, chunk), patches)
    padding = op.Concat(_ints(op, 0, 0), zeros, _ints(op, 0), axis=0)
    cut = op.Concat(chunks, chunk, size, axis=0)
    scale = op.Reciprocal(op.Sqrt(op.Cast(size, to=FLOAT)))

    def one_head(op: OpBuilder, index: ir.Value) -> ir.Value:
        head, mean = _rounded(op, op.Gather(k, index), op.Gather(v, index), scale)
        queries = op.Reshape(op.Pad(op.Gather(q, index), padding), cut)
        y = _loop(op, "chunk", chunks, lambda op, index: _chunk(op, op.Gather(queries, index), head))
        rows = op.Reshape(y, op.Concat(_ints(op, -1), size, axis=0))
        return op.Add(op.Slice(rows, _ints(op, 0), patches, _ints(op, 0)), mean)

    y = _loop(op, "head", op.Shape(q, start=0, end=1), one_head)
    y = op.Reshape(y, op.Concat(_ints(op, -1, num_heads), patches, size, axis=0))
    return op.Reshape(op.Transpose(y, perm=[0, 2, 1, 3]), _ints(op, 0, 0, -1))


def _rounded(op: OpBuilder, k: ir.Value, v: ir.Value, scale: ir.Value) -> tuple[Head, ir.Value]:
    """Rounds keys and values [patches, head_dim] of one head; returns the mean of its values [1, head_dim], too.

    The mean of keys adds the same to all scores of a query, which softmax ignores. That of values is added to the
    output, as probabilities sum to 1: it is then not affected by small probabilities that are rounded to 0.
    """
    k = op.Sub(k, op.ReduceMean(k, _ints(op, 0)))
    mean = op.ReduceMean(v, _ints(op, 0))
    v = op.Sub(v, mean)
    step = op.Constant(value_float=1 / STEPS)
    key_scales = op.Mul(_largest(op, k, 1), step)
    keys = op.Transpose(op.QuantizeLinear(k, key_scales, axis=0, output_dtype=INT8), perm=[1, 0])
    value_scales = op.Mul(_largest(op, v, 0), step)
    values = op.QuantizeLinear(op.Div(v, value_scales), op.Constant(value_float=1.0), output_dtype=INT8)
    return Head(keys, op.Mul(key_scales, scale), values, value_scales), mean


def _chunk(op: OpBuilder, q: ir.Value, head: Head) -> ir.Value:
    """The attention of queries [chunk, head_dim], without the mean of values."""
    codes, step, zero = op.DynamicQuantizeLinear(q, _outputs=3)
    scores = op.MatMulIntegerToFloat(codes, head.keys, step, head.key_scales, zero, _domain=MICROSOFT)
    p = op.Softmax(scores, axis=-1)
    steps = op.Mul(op.ReduceMax(p, _ints(op, -1)), op.Constant(value_float=1 / PROBABILITIES))  # [chunk, 1]
    codes = op.QuantizeLinear(p, op.Reshape(steps, _ints(op, -1)), axis=0, output_dtype=UINT8)
    one = op.Constant(value_float=1.0)
    return op.Mul(op.MatMulIntegerToFloat(codes, head.values, one, head.value_scales, _domain=MICROSOFT), steps)


def _largest(op: OpBuilder, x: ir.Value, axis: int) -> ir.Value:
    """The largest magnitude along an axis, which is removed."""
    largest = op.ReduceMax(op.Abs(x), _ints(op, axis), keepdims=0)
    return op.Max(largest, op.Constant(value_float=SMALLEST))


def _ints(op: OpBuilder, *values: int) -> ir.Value:
    constant: ir.Value = op.Constant(value_ints=list(values))
    return constant


def _quotient(op: OpBuilder, x: ir.Value, divisor: ir.Value) -> ir.Value:
    """x / divisor, rounded up."""
    return op.Div(op.Sub(op.Add(x, divisor), _ints(op, 1)), divisor)


def _loop(op: OpBuilder, name: str, count: ir.Value, body: Callable[[OpBuilder, ir.Value], ir.Value]) -> ir.Value:
    """Calls `body` for indices 0 … count − 1 and stacks what it returns along a new first axis."""
    inputs = [
        ir.Value(name=f"{name}_index", type=ir.TensorType(INT64), shape=ir.Shape([])),
        ir.Value(name=f"{name}_goes_on", type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape([])),
    ]
    types = [ir.DataType.BOOL, FLOAT]
    graph = subgraph(op, name, lambda op, index, goes_on: (op.Identity(goes_on), body(op, index)), types, inputs)
    always = op.Constant(value=ir.tensor(np.array(True)))
    y: ir.Value = op.Loop(op.Squeeze(count), always, body=graph)
    return y
