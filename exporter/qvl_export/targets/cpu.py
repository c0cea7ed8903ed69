"""Target `cpu`: ONNX Runtime's fused operators; arithmetic is float32 whatever the stored type of weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnxscript import OpBuilder

from qvl_runtime.packing import Codes, pack_nibbles

from ..qtensor import Activations, QTensor, QuantFormat
from . import WEIGHT_TYPES, Cache, Inputs, PackedWeight, WindowInputs, ordered, split
from ._experts import FusedExperts
from ._int8_attention import int8_attention
from ._linear_attention import FusedLinearAttention
from ._standard import window_mask
from ._w8a8 import MICROSOFT, gated, w8a8_per_tensor, w8a8_per_token


def lower(precision: str, accuracy_level: int) -> CpuTarget:
    """Returns the ops with float weights in `fp32` or `fp16`."""
    return CpuTarget(WEIGHT_TYPES[precision], accuracy_level)


@dataclass(frozen=True)
class CpuTarget(FusedLinearAttention, FusedExperts):
    """ONNX Runtime on a CPU, see `targets.Target`."""

    opsets: tuple[tuple[str, int], ...] = (("", 23), (MICROSOFT, 1))
    ir_version: int = 11
    static_activations: bool = False
    per_tensor_activations: bool = True
    byte_products: bool = True
    quantized_tables: bool = True
    static_cache: bool = False
    int8_attention: bool | None = False
    cache_inputs: Inputs = (
        ("seqlens_k", ir.DataType.INT32, [1]),
        ("total_sequence_length", ir.DataType.INT32, []),
    )

    @property
    def cache_type(self) -> ir.DataType:
        return ir.DataType.FLOAT

    def for_linear_attention(self) -> CpuTarget:
        return self

    def linear(
        self, op: OpBuilder, x: ir.Value, weight: ir.Value, bias: ir.Value | None, exceeds_fp16: bool = False
    ) -> ir.Value:
        y = op.FusedMatMul(x, self.widen(op, weight), transB=1, _domain=MICROSOFT)
        return y if bias is None else op.Add(y, bias)

    def packed_form(self, outputs: int, inputs: int, format: QuantFormat) -> dict[str, tuple[list[int], ir.DataType]]:
        """The form of MatMulNBits: codes [N, blocks, bytes], scales [N, blocks], zero points packed along blocks.

        W8A8 has the form of MatMulIntegerToFloat: codes [K, N], scales [N].
        """
        if format.integer:
            return {"codes": ([inputs, outputs], ir.DataType.INT8), "scales": ([outputs], ir.DataType.FLOAT)}
        blocks = format.blocks(inputs)
        form = {
            "codes": ([outputs, blocks, format.block * format.bits // 8], ir.DataType.UINT8),
            "scales": ([outputs, blocks], ir.DataType.FLOAT16),
        }
        if format.asymmetric:
            form["zeros"] = ([outputs, -(-blocks * format.bits // 8)], ir.DataType.UINT8)
        if format.permuted:
            form["permutation"] = ([inputs], ir.DataType.INT64)
        return form

    def pack(self, tensor: QTensor) -> dict[str, np.ndarray]:
        format, (rows, columns) = tensor.format, tensor.codes.shape
        if format.integer:
            signed = (tensor.codes.T.astype(np.int16) - format.default_zero_point).astype(np.int8)
            return {"codes": np.ascontiguousarray(signed), "scales": tensor.scales[:, 0]}
        codes = np.full((rows, format.blocks(columns) * format.block), format.default_zero_point, np.uint8)
        codes[:, :columns] = tensor.codes
        packer: Callable[[Codes], Codes] = pack_nibbles if format.bits == 4 else np.ascontiguousarray
        parts: dict[str, np.ndarray] = {
            "codes": packer(codes).reshape(rows, format.blocks(columns), -1),
            "scales": tensor.scales,
        }
        if tensor.zeros is not None:
            parts["zeros"] = packer(tensor.zeros)
        if tensor.permutation is not None:
            parts["permutation"] = tensor.permutation
        return parts

    def quantized_linear(
        self, op: OpBuilder, x: ir.Value, weight: PackedWeight, bias: ir.Value | None, exceeds_fp16: bool = False
    ) -> ir.Value:
        if weight.format.integer:
            per_tensor = weight.format.activations is Activations.INT8_PER_TENSOR
            linear = w8a8_per_tensor if per_tensor else w8a8_per_token
            return linear(op, x, weight.parts, bias)
        return self.blocks_product(op, ordered(op, x, weight), weight, bias)

    def linear_parts(
        self, op: OpBuilder, x: ir.Value, weight: ir.Value, bias: ir.Value | None, count: int
    ) -> Sequence[ir.Value]:
        """Multiplies each part's rows of the weight separately: weights are split once at load time, outputs never."""
        weights = split(op, weight, 0, count)
        biases = [None] * count if bias is None else split(op, bias, 0, count)
        return [self.linear(op, x, *part) for part in zip(weights, biases, strict=True)]

    def quantized_linear_parts(
        self, op: OpBuilder, x: ir.Value, weight: PackedWeight, bias: ir.Value | None, count: int
    ) -> Sequence[ir.Value]:
        if not weight.format.integer:
            return super().quantized_linear_parts(op, x, weight, bias, count)
        codes, scales = split(op, weight.parts["codes"], 1, count), split(op, weight.parts["scales"], 0, count)
        biases = [None] * count if bias is None else split(op, bias, 0, count)
        cut = [{"codes": c, "scales": s} for c, s in zip(codes, scales, strict=True)]
        rows = weight.rows // count
        weights = [weight._replace(parts=parts, rows=rows) for parts in cut]
        return [self.quantized_linear(op, x, *part) for part in zip(weights, biases, strict=True)]

    def blocks_product(self, op: OpBuilder, x: ir.Value, weight: PackedWeight, bias: ir.Value | None) -> ir.Value:
        """x · weightᵀ + bias for a block-quantized weight."""
        scales = weight.parts["scales"]
        return op.MatMulNBits(
            x,
            weight.parts["codes"],
            scales if scales.dtype == self.cache_type else op.Cast(scales, to=self.cache_type),
            weight.parts.get("zeros"),
            None,
            bias,
            K=weight.columns,
            N=weight.rows,
            bits=weight.format.bits,
            block_size=weight.format.block,
            accuracy_level=self.accuracy_level,
            _domain=MICROSOFT,
        )

    def gated(self, op: OpBuilder, gate: ir.Value, up: ir.Value) -> ir.Value:
        return gated(op, gate, up)

    def quantized_embedding(self, op: OpBuilder, ids: ir.Value, table: PackedWeight) -> ir.Value:
        """Reads the blocks that MatMulNBits multiplies, so that embedding and tied head share one tensor."""
        last = op.Constant(value_ints=[-1])
        scales = op.Unsqueeze(op.Cast(table.parts["scales"], to=self.cache_type), last)
        blocks = op.GatherBlockQuantized(
            table.parts["codes"],
            ids,
            scales,
            bits=table.format.bits,
            block_size=table.format.block,
            gather_axis=0,
            quantize_axis=2,
            _domain=MICROSOFT,
        )
        return op.Reshape(blocks, op.Constant(value_ints=[0, 0, table.columns]))

    def rms_norm(
        self, op: OpBuilder, x: ir.Value, delta: ir.Value | None, weight: ir.Value, eps: float
    ) -> tuple[ir.Value, ir.Value]:
        if delta is None:
            return op.RMSNormalization(x, weight, axis=-1, epsilon=eps), x
        y, _, _, total = op.SkipSimplifiedLayerNormalization(
            x, delta, weight, epsilon=eps, _domain=MICROSOFT, _outputs=4
        )
        return y, total

    def swish(self, op: OpBuilder, x: ir.Value, slope: float) -> ir.Value:
        return op.QuickGelu(x, alpha=slope, _domain=MICROSOFT)

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
        """With `int8_attention`, full attention between int8 linears has int8 products, too."""
        if self.int8_attention and integer and windows is None:
            return int8_attention(op, q, k, v, num_heads, lambda op: self.attend(op, q, k, v, num_heads, None))
        return super().vision_attention(op, q, k, v, num_heads, windows, integer)

    def attend(
        self, op: OpBuilder, q: ir.Value, k: ir.Value, v: ir.Value, num_heads: int, windows: WindowInputs | None
    ) -> ir.Value:
        """Full attention takes no mask: with one, ONNX Runtime would materialize patches × patches scores.

        Small windows can take one: 88 windows of 64 patches take 23 ms, with MultiHeadAttention 41 ms.
        """
        if windows is None:
            return op.MultiHeadAttention(q, k, v, num_heads=num_heads, _domain=MICROSOFT)
        mask = window_mask(op, windows)
        return op.Attention(q, k, v, mask, q_num_heads=num_heads, kv_num_heads=num_heads)

    def causal_attention(
        self, op: OpBuilder, q: ir.Value, k: ir.Value, v: ir.Value, cache: Cache, num_heads: int, kv_heads: int
    ) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Past and present may share a buffer; new keys and values are then written in place."""
        filled = (cache.state[name] for name, _, _ in self.cache_inputs)
        y, key, value = op.GroupQueryAttention(
            q,
            k,
            v,
            cache.key,
            cache.value,
            *filled,
            num_heads=num_heads,
            kv_num_heads=kv_heads,
            _domain=MICROSOFT,
            _outputs=3,
        )
        return y, key, value
