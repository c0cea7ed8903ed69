"""The error of a quantized linear's outputs against the float outputs, over the kept tokens."""

from __future__ import annotations

import numpy as np

from ..common.arrays import Floats
from ..qtensor import Activations, QTensor
from .statistics import Statistics

TINY = 1e-30


def round_per_token(x: Floats) -> Floats:
    """Rounds x [T, K] as an integer product does: each token in 127 steps of its largest magnitude."""
    step = np.maximum(np.abs(x).max(axis=-1, keepdims=True), 1e-9) / np.float32(127)
    return np.asarray(np.rint(x / step) * step, np.float32)


def round_per_tensor(x: Floats, largest: float) -> Floats:
    """Rounds x [T, K] of an image as DynamicQuantizeLinear does: in 255 steps from its minimum to its maximum.

    x holds a subset of the image's tokens; its range is scaled up so that it reaches the known `largest` magnitude.
    """
    low, high = (min(float(x.min()), 0.0), max(float(x.max()), 0.0))
    reach = largest / max(high, -low, TINY)
    step = np.float32(max((high - low) * reach, 1e-9) / 255)
    zero = np.rint(-low * reach / step)
    return np.asarray((np.clip(np.rint(x / step) + zero, 0, 255) - zero) * step, np.float32)


def round_static(x: Floats, step: float) -> Floats:
    """Rounds x as an integer product with a static scale does, in steps of `step`."""
    return np.asarray(np.clip(np.rint(x / np.float32(step)), -128, 127) * np.float32(step), np.float32)


def relative_noise(weight: Floats, quantized: QTensor, statistics: Statistics) -> float:
    """Returns ‖y − ŷ‖² / ‖y‖² of the outputs y = x · weightᵀ."""
    exact = statistics.tokens @ weight.T
    x = _rounded_inputs(statistics, quantized)
    difference = x @ quantized.dequantize().T - exact
    return float(np.square(difference, dtype=np.float64).sum() / max(np.square(exact, dtype=np.float64).sum(), TINY))


def _rounded_inputs(statistics: Statistics, quantized: QTensor) -> Floats:
    """The kept tokens, rounded as the quantized linear rounds its inputs."""
    x, format = statistics.tokens, quantized.format
    if quantized.input_scale is not None:
        return round_static(x, quantized.input_scale)
    if format.activations is Activations.INT8_PER_TENSOR:
        return round_per_tensor(x, float(statistics.largest.max()))
    return round_per_token(x) if format.integer else x


def sqnr(weight: Floats, quantized: QTensor, statistics: Statistics) -> float:
    """Signal-to-quantization-noise ratio of the outputs in dB, 10·log10(‖y‖² / ‖y − ŷ‖²)."""
    return float(-10 * np.log10(max(relative_noise(weight, quantized, statistics), TINY)))
