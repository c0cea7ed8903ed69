"""Tensors computed from stored ones when they are read: in another basis, order or size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..common.arrays import Doubles, Floats, Ints
from .safetensors_reader import CHUNK_BYTES, Tensor

BICUBIC = -0.75
"""The coefficient of PyTorch's bicubic interpolation."""


@dataclass(frozen=True)
class Computed:
    """A float32 tensor computed from a stored one when it is read; with `by_row`, some rows at a time."""

    name: str
    source: Tensor
    shape: tuple[int, ...]
    make: Callable[[Floats], Floats]
    by_row: bool
    dtype: ClassVar[np.dtype[Any]] = np.dtype(np.float32)

    @property
    def file(self) -> Path:
        return self.source.file

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def chunks(self, chunk_bytes: int = CHUNK_BYTES) -> Iterator[Floats]:
        """Yields the elements in order, flat."""
        rest = self.source.shape[1:]
        read = (chunk.astype(np.float32).reshape(-1, *rest) for chunk in self.source.chunks(chunk_bytes // 8))
        for rows in read if self.by_row else [np.concatenate(list(read))]:
            yield np.ascontiguousarray(self.make(rows)).reshape(-1)

    def rows(self, indices: Iterable[int]) -> Floats:
        """Returns some rows of a matrix; raises ValueError unless `by_row`."""
        if not self.by_row:
            raise ValueError(f"{self.name} is not made row by row")
        return self.make(self.source.rows(indices).astype(np.float32))


def whole(tensor: Tensor) -> Floats:
    """Returns all elements, flat, in float32."""
    return np.concatenate([chunk.astype(np.float32) for chunk in tensor.chunks()])


def reordered(source: Tensor, order: Ints) -> Computed:
    """Returns the tensor with its rows in another order."""
    return Computed(source.name, source, source.shape, lambda rows: rows[order], by_row=False)


def one_added(source: Tensor) -> Computed:
    """Returns the tensor plus one, of gains that are stored minus one."""
    return Computed(source.name, source, source.shape, lambda gain: gain + 1, by_row=False)


def transposed(source: Tensor) -> Computed:
    """Returns the transposed matrix."""
    return Computed(source.name, source, source.shape[::-1], lambda matrix: matrix.T, by_row=False)


def resized_table(source: Tensor, side: int) -> Computed:
    """Resizes a square position table [n · n, C], stored row by row, to [`side` · `side`, C]."""
    size, channels = round(source.shape[0] ** 0.5), source.shape[1]
    spread = interpolation_matrix(size, side)

    def make(table: Floats) -> Floats:
        grid = table.reshape(size, size, channels)
        return np.asarray(np.einsum("rp,cq,pqk->rck", spread, spread, grid, optimize=True).reshape(-1, channels))

    return Computed(source.name, source, (side * side, channels), make, by_row=False)


def interpolation_matrix(size: int, wanted: int) -> Floats:
    """Returns the bicubic weights [wanted, size] of entries, with aligned centers and repeated edges.

    As PyTorch's `interpolate(mode="bicubic", align_corners=False)`: Keys' cubic convolution (1981).
    """
    if size == wanted:
        return np.eye(size, dtype=np.float32)
    place = (np.arange(wanted) + 0.5) * size / wanted - 0.5
    before = np.floor(place).astype(int)
    matrix = np.zeros((wanted, size))
    for offset in range(-1, 3):
        weights = _cubic(np.abs(place - before - offset))
        np.add.at(matrix, (np.arange(wanted), np.clip(before + offset, 0, size - 1)), weights)
    return matrix.astype(np.float32)


def _cubic(distance: Doubles) -> Doubles:
    near = ((BICUBIC + 2) * distance - (BICUBIC + 3)) * distance**2 + 1
    far = BICUBIC * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0))
