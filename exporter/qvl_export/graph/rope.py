"""M-RoPE of the language model: rotary tables from the time, row and column positions of tokens."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from onnxscript import OpBuilder

from ..families.spec import TextSpec
from .layers import constant, inverse_frequencies


class Rope(NamedTuple):
    """Rotary tables of the new tokens [1, tokens, rotated channels / 2], and the scale of queries [1, tokens, 1]."""

    cos: ir.Value
    sin: ir.Value
    query_scale: ir.Value | None = None


def mrope(op: OpBuilder, spec: TextSpec, position_ids: ir.Value, ntk_alpha: ir.Value | None = None) -> Rope:
    """M-RoPE: each frequency uses the time, row or column position, [3, 1, S] → [1, S, rotated / 2].

    `ntk_alpha` [1] raises the base b to b · α^(d / (d − 2)).
    """
    axes = frequency_axes(spec)
    positions = op.Transpose(op.Cast(position_ids, to=ir.DataType.FLOAT), perm=[1, 2, 0])
    chosen = op.Gather(positions, constant(op, axes, "mrope_axes"), axis=2)
    inverse = constant(op, inverse_frequencies(spec.rotated, spec.rope_theta, spec.yarn), "inverse_frequencies")
    if ntk_alpha is not None:
        exponents = np.arange(0, spec.rotated, 2, dtype=np.float32) / -np.float32(max(spec.rotated - 2, 1))
        inverse = op.Mul(inverse, op.Pow(ntk_alpha, constant(op, exponents, "ntk_exponents")))
    angles = op.Mul(chosen, inverse)
    cos, sin = op.Cos(angles), op.Sin(angles)
    if spec.yarn is not None:
        factor = constant(op, np.array(spec.yarn.attention_factor, np.float32), "rope_attention_factor")
        cos, sin = op.Mul(cos, factor), op.Mul(sin, factor)
    return Rope(cos, sin, _log_length(op, spec, positions))


def _log_length(op: OpBuilder, spec: TextSpec, positions: ir.Value) -> ir.Value | None:
    """max(1, log(position) / log(logn_length)), positions from 1: [1, S, 3] → [1, S, 1] (Qwen's `use_logn_attn`)."""
    if not spec.logn_length:
        return None
    position = op.Add(op.Gather(positions, op.Constant(value_ints=[0]), axis=2), op.Constant(value_float=1.0))
    log = op.Mul(op.Log(position), op.Constant(value_float=1 / math.log(spec.logn_length)))
    return op.Max(log, op.Constant(value_float=1.0))


def frequency_axes(spec: TextSpec) -> np.ndarray:
    """The position axis (time 0, row 1, column 2) of each frequency: [rotated / 2].

    Interleaved axes are time, row, column, time … until the sections of rows and columns are used up, then time.
    """
    if not spec.mrope_interleaved:
        return np.repeat(np.arange(3), spec.mrope_section)
    axes = np.zeros(spec.rotated // 2, dtype=np.int64)
    for axis in (1, 2):
        axes[axis : 3 * spec.mrope_section[axis] : 3] = axis
    return axes
