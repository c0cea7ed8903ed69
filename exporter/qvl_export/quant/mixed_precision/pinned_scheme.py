"""A scheme whose linears get the form that was seen when they were measured, so that their size is known before."""

from __future__ import annotations

from dataclasses import dataclass

from ...qtensor import Layout, QTensor
from ..schemes import Floats, Scheme
from ..statistics import Statistics


@dataclass(frozen=True)
class Pinned:
    """`scheme` with whatever form its linear had: inputs rounded all together, or left in float."""

    scheme: Scheme
    form: Layout

    @property
    def hessian(self) -> bool:
        return self.scheme.hessian

    def layout(self, columns: int) -> Layout:
        """What the scheme begins with."""
        return self.scheme.layout(columns)

    def quantize(self, weight: Floats, statistics: Statistics) -> QTensor:
        tensor = self.scheme.quantize(weight, statistics)
        if self.form.per_tensor:
            return tensor.with_inputs_per_tensor()
        return tensor.weight_only() if tensor.layout.integer and not self.form.integer else tensor
