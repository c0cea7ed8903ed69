"""Mixtures of experts for ONNX Runtime on CPUs: MoE and QMoE, with interleaved gate and up rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript import OpBuilder

from ..qtensor import QuantFormat
from ._standard import StandardOps, check_experts
from ._w8a8 import MICROSOFT

SWIGLU_EXPERTS: dict[str, Any] = {
    "activation_type": "swiglu",
    "swiglu_fusion": 1,
    "activation_alpha": 1.0,
    "activation_beta": 0.0,
    "normalize_routing_weights": 1,
}
"""Attributes for silu(gate) · up, the only form of experts that ONNX Runtime supports on CPUs."""


@dataclass(frozen=True)
class FusedExperts(StandardOps):
    """The part of a target that computes experts."""

    accuracy_level: int

    def gate_up_rows(self, inner: int) -> np.ndarray:
        """Interleaves gate and up rows, as the operator's fused SwiGLU reads them."""
        return np.arange(2 * inner).reshape(2, inner).T.reshape(-1)

    def experts(
        self, op: OpBuilder, x: ir.Value, scores: ir.Value, gate_up: ir.Value, down: ir.Value, chosen: int
    ) -> ir.Value:
        weights = self.widen(op, gate_up), None, self.widen(op, down)
        return op.MoE(x, scores, *weights, k=chosen, **SWIGLU_EXPERTS, _domain=MICROSOFT)

    def packed_experts_form(
        self, experts: int, outputs: int, inputs: int, format: QuantFormat
    ) -> dict[str, tuple[list[int], ir.DataType]]:
        """The form that QMoE takes; it supports neither partial blocks nor permuted columns."""
        check_experts(inputs, format)
        return {
            "codes": ([experts, outputs, inputs * format.bits // 8], ir.DataType.UINT8),
            "scales": ([experts, outputs, format.blocks(inputs)], ir.DataType.FLOAT16),
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
        gate_scales, down_scales = (op.Cast(part["scales"], to=ir.DataType.FLOAT) for part in (gate_up, down))
        weights = gate_up["codes"], gate_scales, None, down["codes"], down_scales
        form = {"expert_weight_bits": format.bits, "block_size": format.block, "accuracy_level": self.accuracy_level}
        return op.QMoE(x, scores, *weights, k=chosen, **form, **SWIGLU_EXPERTS, _domain=MICROSOFT)
