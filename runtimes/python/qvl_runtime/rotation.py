"""Orthogonal matrices that spread every channel over all channels, generated from a seed and never stored.

Q = diag(±1) · (C ⊗ H ⊗ … ⊗ H): random signs, the cosine transform of the odd part of the size, and Hadamard matrices of
the rest (randomized Hadamard transforms: QuaRot, arXiv 2404.00456, §3). Q is a product of small factors, so rotating
n vectors of 2,048 numbers takes n · 2,048 · 96 multiplications instead of n · 2,048².
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .common.arrays import Floats

LARGEST_HADAMARD = 64


@dataclass(frozen=True)
class Rotation:
    """x → x · Q for vectors of `size`, or for n of them concatenated: x is [..., n · size]."""

    size: int
    seed: int

    def apply(self, x: Floats) -> Floats:
        """x · Q."""
        y = x.reshape(-1, self.size) * self.signs
        return _transform(y, self.factors).reshape(x.shape)

    def undo(self, x: Floats) -> Floats:
        """x · Qᵀ."""
        y = _transform(x.reshape(-1, self.size), [factor.T for factor in self.factors])
        return np.asarray(y * self.signs, np.float32).reshape(x.shape)

    @cached_property
    def signs(self) -> Floats:
        """The top bits of PCG64, whose stream NumPy guarantees, as ±1."""
        bits = np.random.PCG64(self.seed).random_raw(self.size) >> np.uint64(63)
        return np.asarray(1 - 2 * bits.astype(np.float32), np.float32)

    @cached_property
    def factors(self) -> list[Floats]:
        """Orthogonal matrices whose Kronecker product is diag(signs) · Q."""
        power = self.size & -self.size
        factors = [cosine_transform(self.size // power)] if self.size > power else []
        while power > 1:
            factors.append(hadamard(min(power, LARGEST_HADAMARD)))
            power //= len(factors[-1])
        return factors


def _transform(x: Floats, factors: Iterable[Floats]) -> Floats:
    """x · (F₁ ⊗ F₂ ⊗ …), x [n, size]: every factor multiplies its own axis, of stride `inner`."""
    y, inner = x, 1
    for factor in reversed(list(factors)):
        count = len(factor)
        y = y.reshape(-1, count) @ factor if inner == 1 else factor.T @ y.reshape(-1, count, inner)
        inner *= count
    return y.reshape(x.shape)


def hadamard(size: int) -> Floats:
    """Sylvester's matrix of ±1/√size, for powers of two."""
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return np.asarray(matrix / np.sqrt(size), np.float32)


def cosine_transform(size: int) -> Floats:
    """The orthonormal DCT-II, whose entries are no larger than √(2 / size)."""
    rows, columns = np.arange(size)[:, None], np.arange(size)
    matrix = np.sqrt(2 / size) * np.cos(np.pi * (2 * columns + 1) * rows / (2 * size))
    matrix[0] = np.sqrt(1 / size)
    return np.asarray(matrix, np.float32)
