"""Target `openvino`: standard ONNX that OpenVINO converts whole.

The graphs are those of `portable`, except for what OpenVINO does not fuse, does not have, or reads wrongly. Attention
over the cache has the form in which it fuses attention, its cache and the heads that share keys into one operator.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
from onnxscript import OpBuilder

from qvl_runtime.manifest import CacheForm

from . import WEIGHT_TYPES, Cache, PackedWeight, _primitives
from ._linear_attention import ScannedLinearAttention
from ._standard import FLOAT
from .portable import PortableTarget, by_row, sizes


def lower(precision: str, accuracy_level: int) -> OpenvinoTarget:
    """Returns the ops with float weights in `fp32` or `fp16`."""
    return OpenvinoTarget(WEIGHT_TYPES[precision])


@dataclass(frozen=True)
class OpenvinoTarget(ScannedLinearAttention, PortableTarget):
    """Standard ONNX in OpenVINO, see `targets.Target`."""

    cache_form: CacheForm = "concat"
    quantized_tables: bool = True

    def for_linear_attention(self) -> OpenvinoTarget:
        return self

    def causal_attention(
        self, op: OpBuilder, q: ir.Value, k: ir.Value, v: ir.Value, cache: Cache, num_heads: int, kv_heads: int
    ) -> tuple[ir.Value, ir.Value, ir.Value]:
        q, k, v = (self.narrow_heads(op, x, heads) for x, heads in ((q, num_heads), (k, kv_heads), (v, kv_heads)))
        key, value = op.Concat(cache.key, k, axis=2), op.Concat(cache.value, v, axis=2)
        dim = sizes(cache.key, start=-1)[0]
        keys, values = (_repeated(op, x, num_heads, num_heads // kv_heads, dim) for x in (key, value))
        y = op.Attention(q, keys, values, cache.state["attention_mask"])
        return self.widen(op, _primitives.by_token(op, y)), key, value

    def quantized_embedding(self, op: OpBuilder, ids: ir.Value, table: PackedWeight) -> ir.Value:
        """Columns of the codes that a tied head multiplies, so that both share one tensor."""
        codes = op.Gather(op.Transpose(table.parts["codes"], perm=[1, 0]), ids)
        scales = table.parts["scales"]
        if by_row(table.format, table.columns):
            scales = op.Unsqueeze(op.Gather(scales, ids), op.Constant(value_ints=[-1]))
            return op.Mul(op.Cast(codes, to=FLOAT), self.widen(op, scales))
        scales = self.widen(op, op.Gather(op.Transpose(scales, perm=[1, 0]), ids))
        blocks = op.Reshape(op.Cast(codes, to=FLOAT), op.Constant(value_ints=[0, 0, -1, table.format.block]))
        scaled = op.Mul(blocks, op.Unsqueeze(scales, op.Constant(value_ints=[-1])))
        return op.Reshape(scaled, op.Constant(value_ints=[0, 0, table.columns]))

    def experts(
        self, op: OpBuilder, x: ir.Value, scores: ir.Value, gate_up: ir.Value, down: ir.Value, chosen: int
    ) -> ir.Value:
        """Repeats the tokens for every expert: OpenVINO 2026.4 computes another shape if the product repeats them."""
        repeated = op.Expand(x, op.Constant(value_ints=[sizes(gate_up)[0], 1, 1]))
        return super().experts(op, repeated, scores, gate_up, down, chosen)


def _repeated(op: OpBuilder, x: ir.Value, heads: int, groups: int, dim: int) -> ir.Value:
    """Keys or values [1, heads / groups, tokens, dim] for all `heads`; shapes are constants, as the fusion expects."""
    if groups == 1:
        return x
    apart = op.Expand(op.Unsqueeze(x, op.Constant(value_ints=[2])), op.Constant(value_ints=[1, 1, groups, 1, 1]))
    return op.Reshape(apart, op.Constant(value_ints=[1, heads, -1, dim]))
