"""Linears, embeddings and experts with quantized weights, which replace float modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir
from onnxscript import OpBuilder, nn

from ..qtensor import Layout, check_table
from ..targets import PackedWeight
from .experts import EXPERT_PARTS, Experts
from .layers import Embedding, Linear


class Packed(nn.Parameter):
    """A part of a quantized weight in the target's form."""


class Quantized(nn.Module):
    """A weight [outputs, inputs] in the target's form; `codes`, `scales` and other parts are parameters."""

    def __init__(self, module: Linear | Embedding, layout: Layout) -> None:
        super().__init__()
        self.target, self.layout = module.target, layout
        self.rows, self.columns = module.rows, module.columns
        self.wide = isinstance(module, Linear) and module.wide
        for name, (shape, dtype) in self.target.packed_form(self.rows, self.columns, layout).items():
            setattr(self, name, Packed(shape, dtype=dtype))

    @property
    def packed(self) -> PackedWeight:
        parts = {name: value for name, value in self.named_parameters() if isinstance(value, Packed)}
        return PackedWeight(parts, self.layout, self.rows, self.columns)

    def apply(self, op: OpBuilder, x: ir.Value, bias: ir.Value | None) -> ir.Value:
        """x · dequantized weightᵀ + bias."""
        return self.target.quantized_linear(op, x, self.packed, bias, self.wide)


class QuantizedLinear(Quantized):
    """A linear whose weight is quantized; its bias stays float."""

    def __init__(self, linear: Linear, layout: Layout) -> None:
        super().__init__(linear, layout)
        self.bias = linear.bias

    def forward(self, op: OpBuilder, x: ir.Value, parts: int = 1) -> ir.Value | Sequence[ir.Value]:
        if parts > 1:
            return self.target.quantized_linear_parts(op, x, self.packed, self.bias, parts)
        return self.apply(op, x, self.bias)


class QuantizedEmbedding(Quantized):
    """A quantized table; the output projection of a tied model uses the same tensors."""

    def __init__(self, embedding: Embedding, layout: Layout) -> None:
        super().__init__(embedding, layout)
        check_table(self.columns, layout)

    def forward(self, op: OpBuilder, ids: ir.Value) -> ir.Value:
        return self.target.quantized_embedding(op, ids, self.packed)

    def head(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        return self.apply(op, x, None)


class QuantizedExpertMatrices(nn.Module):
    """One projection of all experts in the target's form."""

    def __init__(self, experts: Experts, name: str, layout: Layout) -> None:
        super().__init__()
        count, outputs, inputs = getattr(experts, name).source_shape
        for part, (shape, dtype) in experts.target.packed_experts_form(count, outputs, inputs, layout).items():
            setattr(self, part, Packed(shape, dtype=dtype))

    def forward(self, op: OpBuilder) -> dict[str, ir.Value]:
        """Returns the parts; the call adds them to the graph."""
        return dict(self.named_parameters())


class QuantizedExperts(nn.Module):
    """Experts whose matrices are quantized."""

    def __init__(self, experts: Experts, layout: Layout) -> None:
        super().__init__()
        self.target, self.spec, self.layout = experts.target, experts.spec, layout
        self.gate_up_proj, self.down_proj = (QuantizedExpertMatrices(experts, name, layout) for name in EXPERT_PARTS)

    def forward(self, op: OpBuilder, x: ir.Value, scores: ir.Value) -> ir.Value:
        parts = self.gate_up_proj(op), self.down_proj(op)
        return self.target.quantized_experts(op, x, scores, *parts, self.layout, self.spec.experts_per_token)


def quantize(root: nn.Module, prefix: str, layouts: Mapping[str, Layout]) -> dict[str, Layout]:
    """Replaces all linears, embeddings and experts that have a layout by quantized modules; returns the layouts used.

    Names are the checkpoint's; both projections of experts share one layout.
    """
    used = {}
    for path, parent in list(root.named_modules(prefix)):
        for name, child in list(parent.named_children()):
            whole = f"{path}.{name}" if path else name
            layout = layouts.get(whole)
            if layout and isinstance(child, Linear | Embedding):
                kind = QuantizedLinear if isinstance(child, Linear) else QuantizedEmbedding
                setattr(parent, name, kind(child, layout))  # type: ignore[arg-type]
                used[whole] = layout
            elif isinstance(child, Experts) and (layout := layouts.get(f"{whole}.{EXPERT_PARTS[0]}")):
                setattr(parent, name, QuantizedExperts(child, layout))
                used |= {f"{whole}.{part}": layout for part in EXPERT_PARTS}
    return used
