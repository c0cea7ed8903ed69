"""Target `portable`: only standard ONNX operators of opset 24, for any engine that supports them.

Linear attention has standard operators since opset 27.

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

from qvl_runtime.packing import Codes, pack_nibbles

from ..errors import ExportError
from ..qtensor import Activations, QTensor, QuantFormat
from . import PAST, WEIGHT_TYPES, Cache, Inputs, PackedWeight, WindowInputs, ordered
from ._fp16_products import HalfProducts
from ._linear_attention import StandardLinearAttention
from ._standard import FLOAT, check_experts, window_mask

INT64 = ir.DataType.INT64
SIGNED = {4: ir.DataType.INT4, 8: ir.DataType.INT8}
UNSIGNED = {4: ir.DataType.UINT4, 8: ir.DataType.UINT8}

LINEAR_ATTENTION = (("", 27),)
"""The first operator set with linear attention."""
NO_LINEAR_ATTENTION = ExportError("TensorRT has no linear attention", fix="export with --target cpu, cuda or portable")


def lower(precision: str, accuracy_level: int) -> PortableTarget:
    """Returns the ops with float weights in `fp32` or `fp16`; engines choose the accuracy of int4 products."""
    return PortableTarget(WEIGHT_TYPES[precision])


@dataclass(frozen=True)
class PortableTarget(StandardLinearAttention, HalfProducts):
    """Standard ONNX, see `targets.Target`."""

    opsets: tuple[tuple[str, int], ...] = (("", 24),)
    ir_version: int = 11
    static_activations: bool = True
    per_tensor_activations: bool = False
    byte_products: bool = False
    quantized_tables: bool = False
    static_cache: bool = False

    @property
    def cache_inputs(self) -> Inputs:
        """Where the new tokens are written, and which cache positions each of them attends to."""
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
        blocks = [outputs] if _by_row(format, inputs) else [format.blocks(inputs), outputs]
        form = {"codes": ([inputs, outputs], types[format.bits]), "scales": (blocks, self.weight_type)}
        if format.asymmetric:
            form["zeros"] = (blocks, types[format.bits])
        if format.permuted:
            form["permutation"] = ([inputs], INT64)
        return form

    def pack(self, tensor: QTensor) -> dict[str, np.ndarray]:
        format = tensor.format
        codes = tensor.codes if format.asymmetric else tensor.codes - np.uint8(format.default_zero_point)
        parts: dict[str, np.ndarray] = {
            "codes": _bits(codes.T, format),
            "scales": np.ascontiguousarray(tensor.scales.T),
        }
        if format.integer or _by_row(format, tensor.codes.shape[1]):
            parts["scales"] = tensor.scales[:, 0]
        if format.activations is Activations.INT8_STATIC:
            parts["input_scale"] = np.array([tensor.input_scale], np.float32)
        if tensor.zeros is not None:
            parts["zeros"] = _bits(tensor.zeros.T, format)
        if tensor.permutation is not None:
            parts["permutation"] = tensor.permutation
        return parts

    def quantized_linear(
        self, op: OpBuilder, x: ir.Value, weight: PackedWeight, bias: ir.Value | None, exceeds_fp16: bool = False
    ) -> ir.Value:
        parts, format = weight.parts, weight.format
        if format.integer:
            return self._integer_linear(op, x, parts, bias)
        stored = [parts[name] for name in ("codes", "scales", "zeros") if name in parts]  # avoids an empty input
        by_row = _by_row(format, weight.columns)
        matrix = op.DequantizeLinear(*stored, **{"axis": 1} if by_row else {"axis": 0, "block_size": format.block})
        return self.product(op, ordered(op, x, weight), matrix, bias, exceeds_fp16)

    def _integer_linear(
        self, op: OpBuilder, x: ir.Value, parts: Mapping[str, ir.Value], bias: ir.Value | None
    ) -> ir.Value:
        """A pattern that engines fuse into one integer product; float32 avoids rounding of intermediate values."""
        scale = parts["input_scale"]
        rounded = op.DequantizeLinear(op.QuantizeLinear(x, scale, output_dtype=ir.DataType.INT8), scale)
        y = op.MatMul(rounded, op.DequantizeLinear(parts["codes"], parts["scales"], axis=1))
        return y if bias is None else op.Add(y, bias)

    def quantized_embedding(self, op: OpBuilder, ids: ir.Value, table: PackedWeight) -> ir.Value:
        raise ExportError("tables stay float in a portable graph")  # unreachable: see `quantized_tables`

    def rms_norm(
        self, op: OpBuilder, x: ir.Value, delta: ir.Value | None, weight: ir.Value, eps: float
    ) -> tuple[ir.Value, ir.Value]:
        total = x if delta is None else op.Add(x, delta)
        return op.RMSNormalization(total, weight, axis=-1, epsilon=eps), total

    def swish(self, op: OpBuilder, x: ir.Value, slope: float) -> ir.Value:
        if self.opsets == LINEAR_ATTENTION:  # ONNX Runtime 1.32 computes no Swish in it
            return op.Mul(x, op.Sigmoid(x if slope == 1 else op.Mul(x, op.Constant(value_float=slope))))
        return op.Swish(x, alpha=slope)

    def gate_up_rows(self, inner: int) -> np.ndarray:
        """The order of the checkpoint: gate rows, then up rows."""
        return np.arange(2 * inner)

    def experts(
        self, op: OpBuilder, x: ir.Value, scores: ir.Value, gate_up: ir.Value, down: ir.Value, chosen: int
    ) -> ir.Value:
        """Applies every expert to every token, with weight 0 for experts not chosen, so that no loops are needed."""
        gate_up, down = (op.Transpose(weight, perm=[0, 2, 1]) for weight in (gate_up, down))
        gate, up = op.Split(self.product(op, x, gate_up, None), axis=-1, num_outputs=2, _outputs=2)
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
            "codes": ([experts, outputs, inputs], SIGNED[format.bits]),
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
        floats = [
            op.DequantizeLinear(parts["codes"], parts["scales"], axis=2, block_size=format.block)
            for parts in (gate_up, down)
        ]
        return self.experts(op, x, scores, floats[0], floats[1], chosen)

    def for_linear_attention(self) -> PortableTarget:
        """Opset 27, without what ONNX Runtime lacks in it. Raises ExportError for the graphs of engines."""
        if self.static_cache:
            raise NO_LINEAR_ATTENTION
        return replace(self, opsets=LINEAR_ATTENTION)

    def attend(
        self, op: OpBuilder, q: ir.Value, k: ir.Value, v: ir.Value, num_heads: int, windows: WindowInputs | None
    ) -> ir.Value:
        mask = [] if windows is None else [window_mask(op, windows)]
        return op.Attention(q, k, v, *mask, q_num_heads=num_heads, kv_num_heads=num_heads)

    def causal_attention(
        self, op: OpBuilder, q: ir.Value, k: ir.Value, v: ir.Value, cache: Cache, num_heads: int, kv_heads: int
    ) -> tuple[ir.Value, ir.Value, ir.Value]:
        """The host passes write positions and the mask, because parsers ignore lengths and causality."""
        start, mask = cache.state["write_indices"], cache.state["attention_mask"]
        q, k, v = (
            op.Transpose(self.narrow(op, op.Reshape(x, op.Constant(value_ints=[0, 0, heads, -1]))), perm=[0, 2, 1, 3])
            for x, heads in ((q, num_heads), (k, kv_heads), (v, kv_heads))
        )
        key = op.TensorScatter(cache.key, k, start, axis=2, mode="linear")
        value = op.TensorScatter(cache.value, v, start, axis=2, mode="linear")
        y = op.Transpose(op.Attention(q, key, value, mask), perm=[0, 2, 1, 3])
        return self.widen(op, op.Reshape(y, op.Constant(value_ints=[0, 0, -1]))), key, value


def _by_row(format: QuantFormat, inputs: int) -> bool:
    """Whether each row of 8-bit codes has one scale, a form for engines without blocks of 8-bit codes."""
    return format.bits == 8 and format.block >= inputs and not format.asymmetric


def _bits(codes: Codes, format: QuantFormat) -> Codes:
    """Bytes of codes [K, N] in row-major order, two 4-bit codes per byte."""
    flat = np.ascontiguousarray(codes).reshape(-1)
    return pack_nibbles(flat & np.uint8(15)) if format.bits == 4 else flat
