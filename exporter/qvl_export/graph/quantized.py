"""Linears, embeddings and experts with quantized weights, which replace float modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir
from onnxscript import OpBuilder, nn

from ..qtensor import QuantFormat, check_table
from ..targets import PackedWeight
from .experts import EXPERT_PARTS, Experts
from .layers import Embedding, Linear


class Packed(nn.Parameter):
    """A part of a quantized weight in the target's form."""


class Quantized(nn.Module):
    """A weight [outputs, inputs] in the target's form; `codes`, `scales` and other parts are parameters."""

    def __init__(self, module: Linear | Embedding, format: QuantFormat) -> None:
        super().__init__()
        self.target, self.format = module.target, format
        self.rows, self.columns = module.rows, module.columns
        self.exceeds_fp16 = isinstance(module, Linear) and module.exceeds_fp16
        for name, (shape, dtype) in self.target.packed_form(self.rows, self.columns, format).items():
            setattr(self, name, Packed(shape, dtype=dtype))

    @property
    def packed(self) -> PackedWeight:
        parts = {name: value for name, value in self.named_parameters() if isinstance(value, Packed)}
        return PackedWeight(parts, self.format, self.rows, self.columns)

    def apply(self, op: OpBuilder, x: ir.Value, bias: ir.Value | None) -> ir.Value:
        """x · dequantized weightᵀ + bias."""
        return self.target.quantized_linear(op, x, self.packed, bias, self.exceeds_fp16)


class QuantizedLinear(Quantized):
    """A linear whose weight is quantized; its bias stays float."""

    def __init__(self, linear: Linear, format: QuantFormat) -> None:
        super().__init__(linear, format)
        self.bias, self.integer = linear.bias, format.integer

    def forward(self, op: OpBuilder, x: ir.Value, parts: int = 1) -> ir.Value | Sequence[ir.Value]:
        if parts > 1:
            return self.target.quantized_linear_parts(op, x, self.packed, self.bias, parts)
        return self.apply(op, x, self.bias)


class QuantizedEmbedding(Quantized):
    """A quantized table; the output projection of a tied model uses the same tensors."""

    def __init__(self, embedding: Embedding, format: QuantFormat) -> None:
        super().__init__(embedding, format)
        check_table(self.columns, format)

    def forward(self, op: OpBuilder, ids: ir.Value) -> ir.Value:
        return self.target.quantized_embedding(op, ids, self.packed)

    def head(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        return self.apply(op, x, None)


class QuantizedExpertMatrices(nn.Module):
    """One projection of all experts in the target's form."""

    def __init__(self, experts: Experts, name: str, format: QuantFormat) -> None:
        super().__init__()
        count, outputs, inputs = getattr(experts, name).source_shape
        for part, (shape, dtype) in experts.target.packed_experts_form(count, outputs, inputs, format).items():
            setattr(self, part, Packed(shape, dtype=dtype))

    def forward(self, op: OpBuilder) -> dict[str, ir.Value]:
        """Returns the parts; the call adds them to the graph."""
        return dict(self.named_parameters())


class QuantizedExperts(nn.Module):
    """Experts whose matrices are quantized."""

    def __init__(self, experts: Experts, format: QuantFormat) -> None:
        super().__init__()
        self.target, self.spec, self.format = experts.target, experts.spec, format
        self.gate_up_proj, self.down_proj = (QuantizedExpertMatrices(experts, name, format) for name in EXPERT_PARTS)

    def forward(self, op: OpBuilder, x: ir.Value, scores: ir.Value) -> ir.Value:
        parts = self.gate_up_proj(op), self.down_proj(op)
        return self.target.quantized_experts(op, x, scores, *parts, self.format, self.spec.experts_per_token)


def quantize(root: nn.Module, prefix: str, formats: Mapping[str, QuantFormat]) -> dict[str, QuantFormat]:
    """Replaces all linears, embeddings and experts that have a format by quantized modules; returns the formats used.

    Names are the checkpoint's; both projections of experts share one format.
    """
    used = {}
    for path, parent in list(root.named_modules(prefix)):
        for name, child in list(parent.named_children()):
            whole = f"{path}.{name}" if path else name
            format = formats.get(whole)
            if format and isinstance(child, Linear | Embedding):
                new = QuantizedLinear(child, format) if isinstance(child, Linear) else QuantizedEmbedding(child, format)
                setattr(parent, name, new)
                used[whole] = format
            elif isinstance(child, Experts) and (format := formats.get(f"{whole}.{EXPERT_PARTS[0]}")):
                setattr(parent, name, QuantizedExperts(child, format))
                used |= {f"{whole}.{part}": format for part in EXPERT_PARTS}
    return used
