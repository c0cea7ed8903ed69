"""A scheme that quantizes a linear in the format it had when it was measured, so that its size is known beforehand."""

from __future__ import annotations

from dataclasses import dataclass

from ...common.arrays import Floats
from ...qtensor import Activations, QTensor, QuantFormat
from ..schemes import Scheme
from ..statistics import Statistics


@dataclass(frozen=True)
class PinnedScheme:
    """`scheme` with the measured format: inputs rounded per tensor, per token, or kept in float."""

    scheme: Scheme
    measured: QuantFormat

    @property
    def hessian(self) -> bool:
        return self.scheme.hessian

    def of_linear(self, name: str) -> PinnedScheme:
        return self

    def format(self, columns: int) -> QuantFormat:
        """The scheme's own format, before the measured one is applied."""
        return self.scheme.format(columns)

    def quantize(self, weight: Floats, statistics: Statistics) -> QTensor:
        tensor = self.scheme.quantize(weight, statistics)
        if self.measured.activations is Activations.INT8_PER_TENSOR:
            return tensor.with_inputs_per_tensor()
        return tensor.weight_only() if tensor.format.integer and not self.measured.integer else tensor
