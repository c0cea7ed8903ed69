"""The type of a score."""

from __future__ import annotations

Fraction = tuple[float, float]
"""Numerator and denominator of one item's score; a metric over a set is Σ numerators / Σ denominators."""
