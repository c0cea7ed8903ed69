"""A scheme that quantizes a linear in the format it had when it was measured, so that its size is known beforehand."""

from __future__ import annotations

from dataclasses import dataclass

from ...qtensor import Layout, QTensor
from ..schemes import Floats, Scheme
from ..statistics import Statistics


@dataclass(frozen=True)
class Pinned:
    """`scheme` with the measured format: inputs rounded per tensor, per token, or kept in float."""

    scheme: Scheme
    form: Layout

    @property
    def hessian(self) -> bool:
        return self.scheme.hessian

    def layout(self, columns: int) -> Layout:
        """The scheme's own format, before the measured one is applied."""
        return self.scheme.layout(columns)

    def quantize(self, weight: Floats, statistics: Statistics) -> QTensor:
        tensor = self.scheme.quantize(weight, statistics)
        if self.form.per_tensor:
            return tensor.with_inputs_per_tensor()
        return tensor.weight_only() if tensor.layout.integer and not self.form.integer else tensor
