"""Target `web`: ONNX Runtime Web on WebGPU, with operators that its release 1.30 has kernels for there.

Like `cuda`, except for what WebGPU lacks: linears are Gemm, masks of windows are added to scores, and W8A8 is 8-bit
MatMulNBits, which rounds its inputs to int8 in blocks. No weight is rearranged when it is loaded, so that weights go to
the GPU without a copy in WebAssembly's memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from onnxscript import OpBuilder

from ..errors import ExportError
from ..qtensor import QTensor, QuantFormat
from . import WEIGHT_TYPES, PackedWeight, WindowInputs, _primitives, ordered
from ._standard import FLOAT, StandardOps, window_mask
from ._w8a8 import MICROSOFT
from .cuda import CudaTarget

INT8_BLOCKS = (128, 32)
"""Columns that share a scale in MatMulNBits: WebGPU is fastest with whole blocks, and W8A8 has one scale per row."""
HALF_STEPS = 128
"""The divisor of 8-bit codes in a product: with it and scaled inputs, no sum exceeds float16's range."""
IN_RANGE = "scaled into float16's range"
"""Key in a value's `meta` for it, scaled and converted, and the divisor of its tokens."""
HIDDEN = "bias of scores"
"""Key in the `meta` of lengths of windows for what is added to scores."""
LARGEST_FILE = 2**31 - 2**22
"""The longest array of bytes in browsers, a little below 2 GiB: ONNX Runtime Web takes a file as one."""
LEADING = "leading sizes"
"""Key in a value's `meta` for the sizes of its axes but the last."""
NARROW = "before it was widened"
"""Key in a value's `meta` for the value of the weights' type that it was converted from."""


def lower(precision: str, accuracy_level: int) -> WebTarget:
    """Returns the ops with float weights in `fp32` or `fp16`, and products computed in that type."""
    return WebTarget(WEIGHT_TYPES[precision], accuracy_level)


@dataclass(frozen=True)
class WebTarget(CudaTarget):
    """ONNX Runtime Web on a GPU, see `targets.Target`."""

    no_experts: ClassVar[ExportError] = ExportError(
        "WebGPU has no float experts, and no browser holds the models that have experts",
        fix="export with --target portable, tensorrt-rtx or cpu",
    )

    @property
    def largest_file(self) -> int | None:
        return LARGEST_FILE

    def for_linear_attention(self) -> WebTarget:
        """Raises ExportError: the operators are newer than ONNX Runtime Web 1.30."""
        raise ExportError(
            "ONNX Runtime Web has no linear attention", fix="export with --target cpu, cuda, openvino or portable"
        )

    def linear(
        self, op: OpBuilder, x: ir.Value, weight: ir.Value, bias: ir.Value | None, exceeds_fp16: bool = False
    ) -> ir.Value:
        """Gemm reads weights as they are stored, unlike MatMul."""
        assert weight.shape is not None
        outputs, inputs = weight.shape.numpy()
        leading = self._leading(op, x)
        rows, largest = self.in_range(op, x, exceeds_fp16)
        rows = op.Reshape(rows, op.Constant(value_ints=[-1, inputs]))
        y = op.Gemm(rows, weight, *self._inner_bias(op, bias, largest), transB=1)
        y = op.Reshape(y, op.Concat(leading, op.Constant(value_ints=[outputs]), axis=0), allowzero=1)
        return self.out_of_range(op, y, largest, None if largest is None else bias)

    def _inner_bias(self, op: OpBuilder, bias: ir.Value | None, largest: ir.Value | None) -> list[ir.Value]:
        """The bias, if the product can add it because its inputs are not scaled."""
        return [] if bias is None or largest is not None else [self.narrow(op, bias)]

    def _leading(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        if LEADING not in x.meta:
            x.meta[LEADING] = op.Shape(x, end=-1)
        found: ir.Value = x.meta[LEADING]
        return found

    def widen(self, op: OpBuilder, y: ir.Value) -> ir.Value:
        wide = super().widen(op, y)
        if wide is not y:
            wide.meta[NARROW] = y
        return wide

    def narrow(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        """x in the type of products; one conversion serves all that read x, and undoes `widen`."""
        if NARROW not in x.meta:
            x.meta[NARROW] = super().narrow(op, x)
        found: ir.Value = x.meta[NARROW]
        return found

    # outputs are split, as by default, since `cpu` rearranges weights when they are loaded
    linear_parts = StandardOps.linear_parts
    quantized_linear_parts = StandardOps.quantized_linear_parts

    def packed_form(self, outputs: int, inputs: int, format: QuantFormat) -> dict[str, tuple[list[int], ir.DataType]]:
        """The form of MatMulNBits; W8A8 has one float32 scale per row."""
        if not format.integer:
            return super().packed_form(outputs, inputs, format)
        block = _int8_block(inputs)
        return {
            "codes": ([outputs, -(-inputs // block), block], ir.DataType.UINT8),
            "scales": ([outputs], FLOAT),
        }

    def pack(self, tensor: QTensor) -> dict[str, np.ndarray]:
        if not tensor.format.integer:
            return super().pack(tensor)
        rows, columns = tensor.codes.shape
        block = _int8_block(columns)
        codes = np.full((rows, -(-columns // block) * block), tensor.format.default_zero_point, np.uint8)
        codes[:, :columns] = tensor.codes
        return {"codes": codes.reshape(rows, -1, block), "scales": tensor.scales[:, 0]}

    def quantized_linear(
        self, op: OpBuilder, x: ir.Value, weight: PackedWeight, bias: ir.Value | None, exceeds_fp16: bool = False
    ) -> ir.Value:
        if weight.format.integer:
            return self._int8_linear(op, x, weight, bias)
        if bias is None or exceeds_fp16:
            return super().quantized_linear(op, x, weight, bias, exceeds_fp16)
        rows = self.narrow(op, ordered(op, x, weight))
        return self.widen(op, self.blocks_product(op, rows, weight, self.narrow(op, bias)))

    def _int8_linear(self, op: OpBuilder, x: ir.Value, weight: PackedWeight, bias: ir.Value | None) -> ir.Value:
        """Scales follow the product, in float32: those of rows may be too small for float16."""
        block, codes, scales = _int8_block(weight.columns), weight.parts["codes"], weight.parts["scales"]
        step = op.Constant(value=ir.tensor(np.array(1 / HALF_STEPS, self.weight_type.numpy())))
        steps = op.Expand(step, op.Constant(value_ints=[weight.rows, -(-weight.columns // block)]))
        form = {"K": weight.columns, "N": weight.rows, "bits": 8, "block_size": block, "accuracy_level": 4}
        x, largest = self.in_range(op, x, exceeds_fp16=True)
        y = self.widen(op, op.MatMulNBits(x, codes, steps, **form, _domain=MICROSOFT))
        y = op.Mul(y, op.Mul(scales, op.Constant(value_float=float(HALF_STEPS))))
        y = y if largest is None else op.Mul(y, largest)
        return y if bias is None else op.Add(y, bias)

    def in_range(self, op: OpBuilder, x: ir.Value, exceeds_fp16: bool) -> tuple[ir.Value, ir.Value | None]:
        """Scales x once for all linears that read it."""
        if not exceeds_fp16:
            return super().in_range(op, x, exceeds_fp16)
        if IN_RANGE not in x.meta:
            x.meta[IN_RANGE] = super().in_range(op, x, exceeds_fp16)
        found: tuple[ir.Value, ir.Value | None] = x.meta[IN_RANGE]
        return found

    def attend(
        self, op: OpBuilder, q: ir.Value, k: ir.Value, v: ir.Value, num_heads: int, windows: WindowInputs | None
    ) -> ir.Value:
        """The mask of windows is added to their scores: the kernel takes no lengths, and materializes no scores."""
        hidden = [] if windows is None else [None, None, self._bias_of(op, windows)]
        return op.MultiHeadAttention(q, k, v, *hidden, num_heads=num_heads, _domain=MICROSOFT)

    def _bias_of(self, op: OpBuilder, windows: WindowInputs) -> ir.Value:
        """What is added to the scores of each window, [windows, 1, size, size]; made once for all layers."""
        lengths = windows.lengths
        if HIDDEN not in lengths.meta:
            lengths.meta[HIDDEN] = _primitives.bias(op, window_mask(op, windows), self.weight_type)
        found: ir.Value = lengths.meta[HIDDEN]
        return found


def _int8_block(columns: int) -> int:
    """Columns per block of a W8A8 weight: the largest of INT8_BLOCKS that divides them, else the last of these."""
    return next((block for block in INT8_BLOCKS if columns % block == 0), INT8_BLOCKS[-1])
