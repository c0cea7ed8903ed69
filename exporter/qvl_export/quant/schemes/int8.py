"""`int8`: W8A8. A symmetric scale for every row of the weight and, at run time, for every token of the input."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...errors import ExportError
from ..qtensor import Layout, QTensor
from ..statistics import Statistics
from . import Floats, Options

TINY = 1e-30
"""The scale of a row of zeros."""


@dataclass(frozen=True)
class Int8:
    """Rows of 8-bit codes, or of 7: those do not saturate the 16-bit sums of x86 without VNNI."""

    bits: int
    hessian: bool = False

    def layout(self, columns: int) -> Layout:
        return Layout(self.bits, columns, integer=True)

    def quantize(self, weight: Floats, statistics: Statistics | None = None) -> QTensor:
        """Round to nearest: next to the rounding of activations, that of 8-bit weights leaves nothing to gain."""
        if not np.isfinite(weight).all():
            raise ExportError("weights are not finite", fix="check the checkpoint")
        layout = self.layout(weight.shape[1])
        scales = np.maximum(np.abs(weight).max(axis=1, keepdims=True) / (layout.middle - 1), TINY).astype(np.float32)
        codes = np.rint(weight / scales) + layout.middle
        return QTensor(layout, codes.astype(np.uint8), scales)


def make(options: Options) -> Int8:
    return Int8(7 if options.reduce_range else 8)
