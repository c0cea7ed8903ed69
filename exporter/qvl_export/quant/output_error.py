"""How far a quantized linear's outputs are from the float ones, over the kept tokens."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..qtensor import QTensor
from .statistics import Statistics

Floats = npt.NDArray[np.float32]
TINY = 1e-30


def round_tokens(x: Floats) -> Floats:
    """x [T, K] as an integer product sees it: every token in 127 steps of its largest magnitude."""
    step = np.maximum(np.abs(x).max(axis=-1, keepdims=True), 1e-9) / np.float32(127)
    return np.asarray(np.rint(x / step) * step, np.float32)


def round_together(x: Floats, largest: float) -> Floats:
    """x [T, K] of an image as DynamicQuantizeLinear rounds it: in 255 steps from its least to its largest element.

    The tokens are some of those whose `largest` magnitude is known: their range grows to it.
    """
    low, high = (min(float(x.min()), 0.0), max(float(x.max()), 0.0))
    reach = largest / max(high, -low, TINY)
    step = np.float32(max((high - low) * reach, 1e-9) / 255)
    zero = np.rint(-low * reach / step)
    return np.asarray((np.clip(np.rint(x / step) + zero, 0, 255) - zero) * step, np.float32)


def round_inputs(x: Floats, step: float) -> Floats:
    """x as an integer product with a static scale sees it."""
    return np.asarray(np.clip(np.rint(x / np.float32(step)), -128, 127) * np.float32(step), np.float32)


def relative_noise(weight: Floats, quantized: QTensor, statistics: Statistics) -> float:
    """‖y − ŷ‖² / ‖y‖² of the outputs y = x · weightᵀ."""
    exact = statistics.tokens @ weight.T
    x = _seen(statistics, quantized)
    difference = x @ quantized.dequantize().T - exact
    return float(np.square(difference, dtype=np.float64).sum() / max(np.square(exact, dtype=np.float64).sum(), TINY))


def _seen(statistics: Statistics, quantized: QTensor) -> Floats:
    """The kept tokens as the linear sees them."""
    x, layout = statistics.tokens, quantized.layout
    if quantized.input_scale is not None:
        return round_inputs(x, quantized.input_scale)
    if layout.per_tensor:
        return round_together(x, float(statistics.largest.max()))
    return round_tokens(x) if layout.integer else x


def sqnr(weight: Floats, quantized: QTensor, statistics: Statistics) -> float:
    """Signal over quantization noise of the outputs in decibels, 10·log10(‖y‖² / ‖y − ŷ‖²)."""
    return float(-10 * np.log10(max(relative_noise(weight, quantized, statistics), TINY)))
