"""Compares the values of one stage in two models: cosine and signal-to-quantization-noise ratio (SQNR)."""

from __future__ import annotations

import math

import msgspec
import numpy as np

from ...common.arrays import Floats

TINY = 1e-30
NOT_FINITE = -300.0
"""SQNR in decibels that stands for values that are not finite."""


class Similarity(msgspec.Struct, frozen=True):
    """Cosine over all values, and SQNR = 10 · log₁₀(‖y‖² / ‖y − ŷ‖²) in decibels, None if they are equal."""

    cosine: float
    sqnr: float | None


def similarity(reference: Floats, other: Floats) -> Similarity:
    """Compares all values of [tokens, features]; if one is not finite, cosine is 0 and SQNR is `NOT_FINITE`."""
    with np.errstate(invalid="ignore"):  # ∞ − ∞
        y, noise = reference.astype(np.float64), other.astype(np.float64) - reference
    signal, error = float((y * y).sum()), float((noise * noise).sum())
    if not math.isfinite(signal + error):
        return Similarity(0.0, NOT_FINITE)
    norms = math.sqrt(signal) * float(np.linalg.norm(other.astype(np.float64)))
    cosine = float((y * other).sum()) / norms if norms else float(error == 0)
    sqnr = None if error == 0 else 10 * math.log10(max(signal, 1e-300) / error)
    return Similarity(round(cosine, 9), None if sqnr is None else round(sqnr, 3))


def noise_ratio(found: Similarity | None) -> float:
    """Returns the noise-to-signal power ratio; 0 if the values are equal."""
    return 0.0 if found is None or found.sqnr is None else 10 ** (-found.sqnr / 10)


def undo_smoothing(reference: Floats, other: Floats) -> Floats:
    """Scales each channel of `other` to fit the reference best (least squares), with factors of geometric mean 1.

    Factors that smoothing moves to the next linear are not noise. An error of the scale as a whole remains.
    """
    factors = (reference * other).sum(axis=0) / np.maximum(np.square(other).sum(axis=0), TINY)
    known = factors > 0
    factors[known] /= np.exp(np.log(factors[known]).mean()) if known.any() else 1
    return np.asarray(other * np.where(known, factors, 1), np.float32)
