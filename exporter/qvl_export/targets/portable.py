"""Target `portable`: only standard ONNX operators, for any engine that supports their opset.

Operators that an opset lacks are written out in older ones (`_primitives`). Below opset 21, which has the first 4-bit
types and scales per block, 4-bit codes are stored as bytes, and blocks are written out too.

Linear attention has standard operators since opset 27, in which graphs with it are written by default.

Values between the ops are float32. With `fp16` weights, matrix products and attention compute in float16 and return
float32, so that norms, rotary angles, activations and residual streams never overflow. The inputs of a linear that
`exceeds_fp16` are first scaled into float16's range, per token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from onnxscript import OpBuilder

from qvl_runtime.manifest import CacheForm
from qvl_runtime.packing import Codes, pack_nibbles

from ..errors import ExportError
from ..qtensor import Activations, QTensor, QuantFormat
from . import (
    DEFAULT_FORM,
    PAST,
    TOTAL,
    WEIGHT_TYPES,
    Cache,
    GraphForm,
    Inputs,
    PackedWeight,
    WindowInputs,
    _primitives,
    ordered,
    split,
)
from ._fp16_products import HalfProducts
from ._linear_attention import StandardLinearAttention
from ._standard import FLOAT, check_experts, window_mask

INT64 = ir.DataType.INT64
SIGNED = {4: ir.DataType.INT4, 8: ir.DataType.INT8}
UNSIGNED = {4: ir.DataType.UINT4, 8: ir.DataType.UINT8}

NO_LINEAR_ATTENTION = ExportError(
    "TensorRT has no linear attention", fix="export with --target cpu, cuda, openvino or portable"
)
OPSETS = range(17, 28)
"""The opsets that graphs can be written for."""
OPSET = 24
IR_VERSIONS = {17: 8, 18: 8, 19: 9, 20: 9, 21: 10, 22: 10}
"""The IR version that came with an opset; later ones have `IR_VERSION`, the least with all that the graphs use."""
IR_VERSION = 11
HALF_SCALES, INT4, LINEAR_ATTENTION = 19, 21, 27
"""The first opsets with float16 scales; with 4-bit types and blocks of scales; with LinearAttention and
CausalConvWithState."""
SINCE = {
    "Gelu": 20,
    "RMSNormalization": 23,
    "RotaryEmbedding": 23,
    "Attention": 23,
    "Swish": 24,
    "TensorScatter": 24,
}
"""The first opset of operators that are written out where they are missing."""


def lower(precision: str, accuracy_level: int, form: GraphForm = DEFAULT_FORM) -> PortableTarget:
    """Returns the ops with float weights in `fp32` or `fp16`; engines choose the accuracy of int4 products.

    Raises ExportError for an opset that is not supported.
    """
    opset = OPSET if form.opset is None else form.opset
    if opset not in OPSETS:
        raise ExportError(f"opset {opset} is not supported", fix=f"{OPSETS[0]} to {OPSETS[-1]}")
    concat = opset < SINCE["TensorScatter"] if form.cache is None else form.cache == "concat"
    return PortableTarget(WEIGHT_TYPES[precision], opset=opset, cache_form="concat" if concat else "scatter")


@dataclass(frozen=True)
class PortableTarget(StandardLinearAttention, HalfProducts):
    """Standard ONNX, see `targets.Target`; `lacking` are operators of `SINCE` that the engine does not have."""

    opset: int = OPSET
    lacking: frozenset[str] = frozenset()
    cache_form: CacheForm = "scatter"
    static_activations: bool = True
    per_tensor_activations: bool = False
    byte_products: bool = False
    quantized_tables: bool = False
    static_cache: bool = False

    @property
    def opsets(self) -> tuple[tuple[str, int], ...]:
        return (("", self.opset),)

    def has(self, operator: str) -> bool:
        """Whether graphs may have an operator of `SINCE`."""
        return SINCE[operator] <= self.opset and operator not in self.lacking

    @property
    def ir_version(self) -> int:
        return IR_VERSIONS.get(self.opset, IR_VERSION)

    @property
    def has_int4(self) -> bool:
        return self.opset >= INT4

    @property
    def cache_inputs(self) -> Inputs:
        """Where the new tokens are written, and which cache positions each of them attends to."""
        if self.cache_form == "concat":
            return (("attention_mask", ir.DataType.BOOL, [1, 1, "sequence", TOTAL]),)
        return (("write_indices", INT64, [1]), ("attention_mask", ir.DataType.BOOL, [1, 1, "sequence", PAST]))

    def linear(
        self, op: OpBuilder, x: ir.Value, weight: ir.Value, bias: ir.Value | None, exceeds_fp16: bool = False
    ) -> ir.Value:
        return self.product(op, x, op.Transpose(weight, perm=[1, 0]), bias, exceeds_fp16)

    def packed_form(self, outputs: int, inputs: int, format: QuantFormat) -> dict[str, tuple[list[int], ir.DataType]]:
        """The form of DequantizeLinear: codes [K, N], scales [blocks, N]; W8A8 has scales [N] and one input scale."""
        if format.integer:
            form = {"codes": ([inputs, outputs], ir.DataType.INT8), "scales": ([outputs], FLOAT)}
            return form | ({"input_scale": ([], FLOAT)} if format.activations is Activations.INT8_STATIC else {})
        if inputs % format.block:
            raise ExportError(
                f"linears of {inputs} columns are not made of whole blocks of {format.block}",
                fix="another --block-size, or int8 for their tower",
            )
        types = UNSIGNED if format.asymmetric else SIGNED
        bits = format.bits if self.has_int4 else 8
        blocks = [outputs] if by_row(format, inputs) else [format.blocks(inputs), outputs]
        form = {"codes": ([inputs, outputs], types[bits]), "scales": (blocks, self.weight_type)}
        if format.asymmetric:
            form["zeros"] = (blocks, types[bits])
        if format.permuted:
            form["permutation"] = ([inputs], INT64)
        return form

    def pack(self, tensor: QTensor) -> dict[str, np.ndarray]:
        format = tensor.format
        codes = tensor.codes if format.asymmetric else tensor.codes - np.uint8(format.default_zero_point)
        parts: dict[str, np.ndarray] = {
            "codes": self._bytes(codes.T, format),
            "scales": np.ascontiguousarray(tensor.scales.T),
        }
        if format.integer or by_row(format, tensor.codes.shape[1]):
            parts["scales"] = tensor.scales[:, 0]
        if format.activations is Activations.INT8_STATIC:
            parts["input_scale"] = np.array([tensor.input_scale], np.float32)
        if tensor.zeros is not None:
            parts["zeros"] = self._bytes(tensor.zeros.T, format)
        if tensor.permutation is not None:
            parts["permutation"] = tensor.permutation
        return parts

    def _bytes(self, codes: Codes, format: QuantFormat) -> Codes:
        """Bytes of codes [K, N] in row-major order, two 4-bit codes per byte if the opset has them."""
        flat = np.ascontiguousarray(codes).reshape(-1)
        return pack_nibbles(flat & np.uint8(15)) if format.bits == 4 and self.has_int4 else flat

    def quantized_linear(
        self, op: OpBuilder, x: ir.Value, weight: PackedWeight, bias: ir.Value | None, exceeds_fp16: bool = False
    ) -> ir.Value:
        parts, format = weight.parts, weight.format
        if format.integer:
            return self._integer_linear(op, x, parts, bias)
        matrix = self._dequantized(op, parts, format, weight.columns, weight.rows)
        return self.product(op, ordered(op, x, weight), matrix, bias, exceeds_fp16)

    def _dequantized(
        self, op: OpBuilder, parts: Mapping[str, ir.Value], format: QuantFormat, columns: int, rows: int
    ) -> ir.Value:
        """The float matrix [columns, rows] of a quantized weight, in the weights' type."""
        stored = [parts[name] for name in ("codes", "scales", "zeros") if name in parts]  # avoids an empty input
        if by_row(format, columns):
            if self.opset >= HALF_SCALES:
                return op.DequantizeLinear(*stored, axis=1)
            return self.narrow(op, op.DequantizeLinear(parts["codes"], self.widen(op, parts["scales"]), axis=1))
        if self.has_int4:
            return op.DequantizeLinear(*stored, axis=0, block_size=format.block)
        return _primitives.dequantize(
            op,
            (parts["codes"], parts["scales"], parts.get("zeros")),
            _primitives.Blocks((columns, rows), axis=0, size=format.block),
            self.weight_type,
        )

    def _integer_linear(
        self, op: OpBuilder, x: ir.Value, parts: Mapping[str, ir.Value], bias: ir.Value | None
    ) -> ir.Value:
        """A pattern that engines fuse into one integer product; float32 avoids rounding of intermediate values."""
        scale = parts["input_scale"]
        codes = (
            op.QuantizeLinear(x, scale, output_dtype=ir.DataType.INT8)
            if self.has_int4
            else op.QuantizeLinear(x, scale, op.Constant(value=ir.tensor(np.array(0, np.int8))))
        )
        rounded = op.DequantizeLinear(codes, scale)
        y = op.MatMul(rounded, op.DequantizeLinear(parts["codes"], parts["scales"], axis=1))
        return y if bias is None else op.Add(y, bias)

    def quantized_embedding(self, op: OpBuilder, ids: ir.Value, table: PackedWeight) -> ir.Value:
        raise ExportError("tables stay float in a portable graph")  # unreachable: see `quantized_tables`

    def rms_norm(
        self, op: OpBuilder, x: ir.Value, delta: ir.Value | None, weight: ir.Value, eps: float
    ) -> tuple[ir.Value, ir.Value]:
        total = x if delta is None else op.Add(x, delta)
        if not self.has("RMSNormalization"):
            return _primitives.rms_norm(op, total, weight, eps), total
        return op.RMSNormalization(total, weight, axis=-1, epsilon=eps), total

    def activation(self, op: OpBuilder, x: ir.Value, kind: str) -> ir.Value:
        if not self.has("Gelu") and kind in ("gelu", "gelu_tanh"):
            return _primitives.gelu(op, x, kind == "gelu_tanh")
        return super().activation(op, x, kind)

    def swish(self, op: OpBuilder, x: ir.Value, slope: float) -> ir.Value:
        """ONNX Runtime 1.32 inlines Swish in graphs of opset 24, and refuses it in newer ones."""
        known = self.has("Swish") and self.opset == SINCE["Swish"]
        return op.Swish(x, alpha=slope) if known else _primitives.swish(op, x, slope)

    def rotary(
        self, op: OpBuilder, x: ir.Value, cos: ir.Value, sin: ir.Value, num_heads: int, rotary_dim: int = 0
    ) -> ir.Value:
        if not self.has("RotaryEmbedding"):
            assert not rotary_dim, "only models with linear attention rotate a part of each head"
            return _primitives.rotary(op, x, cos, sin, num_heads)
        return super().rotary(op, x, cos, sin, num_heads, rotary_dim)

    def gate_up_rows(self, inner: int) -> np.ndarray:
        """The order of the checkpoint: gate rows, then up rows."""
        return np.arange(2 * inner)

    def experts(
        self, op: OpBuilder, x: ir.Value, scores: ir.Value, gate_up: ir.Value, down: ir.Value, chosen: int
    ) -> ir.Value:
        """Applies every expert to every token, with weight 0 for experts not chosen, so that no loops are needed."""
        gate_up, down = (op.Transpose(weight, perm=[0, 2, 1]) for weight in (gate_up, down))
        gate, up = split(op, self.product(op, x, gate_up, None), -1, 2)
        y = self.product(op, op.Mul(self.activation(op, gate, "silu"), up), down, None, exceeds_fp16=True)
        best, indices = op.TopK(scores, op.Constant(value_ints=[chosen]), axis=-1, _outputs=2)
        nothing = op.Mul(scores, op.Constant(value_float=0.0))
        shares = op.ScatterElements(nothing, indices, op.Softmax(best, axis=-1), axis=-1)
        shares = op.Unsqueeze(op.Transpose(shares, perm=[1, 0]), op.Constant(value_ints=[-1]))
        return op.ReduceSum(op.Mul(y, shares), op.Constant(value_ints=[0]), keepdims=1)

    def packed_experts_form(
        self, experts: int, outputs: int, inputs: int, format: QuantFormat
    ) -> dict[str, tuple[list[int], ir.DataType]]:
        """Codes and scales in the order of the checkpoint, row by row."""
        check_experts(inputs, format)
        return {
            "codes": ([experts, outputs, inputs], SIGNED[format.bits if self.has_int4 else 8]),
            "scales": ([experts, outputs, format.blocks(inputs)], self.weight_type),
        }

    def quantized_experts(
        self,
        op: OpBuilder,
        x: ir.Value,
        scores: ir.Value,
        gate_up: Mapping[str, ir.Value],
        down: Mapping[str, ir.Value],
        format: QuantFormat,
        chosen: int,
    ) -> ir.Value:
        floats = [self._dequantized_experts(op, parts["codes"], parts["scales"], format) for parts in (gate_up, down)]
        return self.experts(op, x, scores, floats[0], floats[1], chosen)

    def _dequantized_experts(self, op: OpBuilder, codes: ir.Value, scales: ir.Value, format: QuantFormat) -> ir.Value:
        if self.has_int4:
            return op.DequantizeLinear(codes, scales, axis=2, block_size=format.block)
        blocks = _primitives.Blocks(sizes(codes), axis=2, size=format.block)
        return _primitives.dequantize(op, (codes, scales, None), blocks, self.weight_type)

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
        if not self.has("Attention"):
            q = _primitives.scaled(op, q, sizes(q, start=-1)[0] // num_heads)
        return super().vision_attention(op, q, k, v, num_heads, windows, integer)

    def for_linear_attention(self) -> PortableTarget:
        """The first opset that has it, if none was chosen. Raises ExportError for the graphs of engines."""
        if self.static_cache:
            raise NO_LINEAR_ATTENTION
        return replace(self, opset=max(self.opset, LINEAR_ATTENTION))

    def attend(
        self, op: OpBuilder, q: ir.Value, k: ir.Value, v: ir.Value, num_heads: int, windows: WindowInputs | None
    ) -> ir.Value:
        mask = None if windows is None else window_mask(op, windows)
        if not self.has("Attention"):
            return _primitives.attention(op, q, k, v, num_heads, self.weight_type, mask)
        masks = [] if mask is None else [mask]
        return op.Attention(q, k, v, *masks, q_num_heads=num_heads, kv_num_heads=num_heads)

    def causal_attention(
        self, op: OpBuilder, q: ir.Value, k: ir.Value, v: ir.Value, cache: Cache, num_heads: int, kv_heads: int
    ) -> tuple[ir.Value, ir.Value, ir.Value]:
        """The host passes write positions and the mask, because parsers ignore lengths and causality."""
        mask = cache.state["attention_mask"]
        if not self.has("Attention"):
            q = _primitives.scaled(op, q, sizes(cache.key, start=-1)[0])
        q, k, v = (self.narrow_heads(op, x, heads) for x, heads in ((q, num_heads), (k, kv_heads), (v, kv_heads)))
        key, value = (self._extended(op, past, new, cache) for past, new in ((cache.key, k), (cache.value, v)))
        y = (
            op.Attention(q, key, value, mask)
            if self.has("Attention")
            else _primitives.grouped_attention(op, q, key, value, num_heads // kv_heads, self.weight_type, mask)
        )
        return self.widen(op, _primitives.by_token(op, y)), key, value

    def narrow_heads(self, op: OpBuilder, x: ir.Value, heads: int) -> ir.Value:
        """[batch, tokens, features] as [batch, heads, tokens, dim] in the weights' type."""
        apart = op.Reshape(x, op.Constant(value_ints=[0, 0, heads, -1]))
        return op.Transpose(self.narrow(op, apart), perm=[0, 2, 1, 3])

    def _extended(self, op: OpBuilder, past: ir.Value, new: ir.Value, cache: Cache) -> ir.Value:
        """Past keys or values [1, heads, tokens, dim] and the new ones."""
        if self.cache_form == "concat":
            return op.Concat(past, new, axis=2)
        start = cache.state["write_indices"]
        if not self.has("TensorScatter"):
            return _primitives.write_tokens(op, past, new, start)
        return op.TensorScatter(past, new, start, axis=2, mode="linear")


def by_row(format: QuantFormat, inputs: int) -> bool:
    """Whether each row of 8-bit codes has one scale, a form for engines without blocks of 8-bit codes."""
    return format.bits == 8 and format.block >= inputs and not format.asymmetric


def sizes(value: ir.Value, start: int = 0) -> tuple[int, ...]:
    """The sizes of the axes of a value from `start` on, which are known when the graph is built."""
    assert value.shape is not None
    found = value.shape[start:]
    assert all(isinstance(size, int) for size in found), value
    return tuple(int(str(size)) for size in found)
