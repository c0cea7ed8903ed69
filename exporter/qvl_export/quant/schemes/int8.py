"""`int8`: W8A8. One symmetric scale per row of the weight and, at run time, one per token of the input.

Engines without dynamic scales take `static` ones: one scale for all inputs of a linear, chosen on the pages.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qvl_runtime.manifest import EXACT_EVERYWHERE

from ...common.arrays import Floats
from ...errors import ExportError
from ...qtensor import Activations, QTensor, QuantFormat
from ..output_error import round_static
from ..statistics import Statistics
from . import Options

READS = frozenset({"cpu", "static"})
TINY = 1e-30
"""The scale of a row of zeros."""
CLIPS = (1.0, 0.8, 0.6, 0.45, 0.3, 0.2, 0.1)
"""Clipping ranges tried for a static scale, as fractions of the largest input."""


@dataclass(frozen=True)
class Int8:
    """8-bit codes per row; with `paired`, two neighbors never saturate the 16-bit sums of x86 without VNNI."""

    paired: bool = True
    static: bool = False
    hessian: bool = False

    def of_linear(self, name: str) -> Int8:
        return self

    def format(self, columns: int) -> QuantFormat:
        activations = Activations.INT8_STATIC if self.static else Activations.INT8_PER_TOKEN
        return QuantFormat(8, columns, activations=activations)

    def quantize(self, weight: Floats, statistics: Statistics | None = None) -> QTensor:
        """Rounds to nearest: the error of 8-bit weights is negligible beside the rounding of activations."""
        if not np.isfinite(weight).all():
            raise ExportError("weights are not finite", fix="check the checkpoint")
        format = self.format(weight.shape[1])
        largest = np.abs(weight).max(axis=1, keepdims=True)
        if self.paired:
            largest = np.maximum(largest, _largest_pair(weight))
        scales = np.maximum(largest / 127, TINY).astype(np.float32)
        codes = np.rint(weight / scales) + format.default_zero_point
        step = _input_scale(statistics) if self.static and statistics else None
        return QTensor(format, codes.astype(np.uint8), scales, input_scale=step)


def _largest_pair(weight: Floats) -> Floats:
    """The largest magnitude of the sum of two neighbors in each row, [N, 1]; signs that differ do not add up.

    x86 without VNNI sums the products of columns 2i and 2i + 1 in 16 bits. Rounding adds at most 1 to 127 steps, and
    128 · 255 = 32,640 fits.
    """
    even, odd = weight[:, ::2], weight[:, 1::2]
    sums = np.abs(even[:, : odd.shape[1]] + odd)  # at most one of the two, if their signs differ
    return np.asarray(sums.max(axis=1, keepdims=True, initial=0))


def _input_scale(statistics: Statistics) -> float:
    """The step with the least squared error on the kept tokens; values beyond 127 steps are clipped."""
    largest = max(float(statistics.largest.max()), TINY)
    steps = [largest * clip / 127 for clip in CLIPS]
    losses = [np.square(statistics.tokens - round_static(statistics.tokens, step)).sum() for step in steps]
    return steps[int(np.argmin(losses))]


def make(options: Options) -> Int8:
    return Int8(options.cpu in EXACT_EVERYWHERE and not options.static, options.static)
