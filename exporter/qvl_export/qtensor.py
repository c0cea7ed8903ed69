"""`QTensor`: the quantized weight that every scheme produces and every target lowers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
import numpy.typing as npt

from .common.arrays import Floats, Ints
from .errors import ExportError


class Activations(Enum):
    """The inputs of a quantized linear. All but FLOAT are rounded to int8, and the product is computed in integers.

    INT8_PER_TOKEN computes one scale per token at run time. INT8_PER_TENSOR computes one scale and zero point for all
    tokens of an image. INT8_STATIC has one scale from calibration.
    """

    FLOAT = "float"
    INT8_PER_TOKEN = "int8_per_token"
    INT8_PER_TENSOR = "int8_per_tensor"
    INT8_STATIC = "int8_static"


INPUTS = {
    Activations.INT8_PER_TOKEN: "int8",
    Activations.INT8_PER_TENSOR: "int8 per tensor",
    Activations.INT8_STATIC: "static int8",
}
"""The names of rounded inputs in manifests and messages."""


@dataclass(frozen=True)
class QuantFormat:
    """The format of a quantized linear, known before its values.

    Codes have `bits` bits; `block` columns share a scale and, if `asymmetric`, a zero point. The columns of `permuted`
    codes are in another order than the linear's inputs.
    """

    bits: int
    block: int
    asymmetric: bool = False
    permuted: bool = False
    activations: Activations = Activations.FLOAT

    @property
    def integer(self) -> bool:
        """Whether inputs are rounded to int8, so that the product is computed in integers (W8A8)."""
        return self.activations is not Activations.FLOAT

    def with_inputs_per_tensor(self) -> QuantFormat:
        """Returns the same format for inputs whose tokens share a scale; `self` has integer products."""
        return replace(self, activations=Activations.INT8_PER_TENSOR)

    def blocks(self, columns: int) -> int:
        """Number of blocks in a row of `columns`; the last may be partial."""
        return -(-columns // self.block)

    @property
    def default_zero_point(self) -> int:
        """The zero point of symmetric codes."""
        return 1 << (self.bits - 1)

    @property
    def signed_scales(self) -> bool:
        """Whether scales may be negative. At 8 bits it gains only half a step of 255, and TensorRT refuses them."""
        return self.bits != 8 and not self.asymmetric

    @property
    def scale_type(self) -> type[np.float16 | np.float32]:
        """Type of stored scales: float16 saves space in small blocks, while one float32 scale per row costs little."""
        return np.float32 if self.integer else np.float16

    def __str__(self) -> str:
        inputs = INPUTS.get(self.activations)
        return f"int{self.bits} × {inputs}" if inputs else f"int{self.bits} in blocks of {self.block}"


TABLE_BITS, TABLE_BLOCK, LEAST_BLOCK = 8, 128, 16
"""Embeddings and heads have 8 bits: logits are the last place to save bits, and a table is read row by row. Their
blocks are large: at 8 bits that costs next to no accuracy, and each block adds eight bytes that every token reads.
Kernels support no blocks smaller than LEAST_BLOCK."""


def table_format(columns: int) -> QuantFormat:
    """Returns the format of tables: blocks of TABLE_BLOCK columns, or the largest power of two that divides them.

    Raises ExportError for columns that are not made of whole blocks, which lookups do not support.
    """
    format = QuantFormat(TABLE_BITS, max(LEAST_BLOCK, min(TABLE_BLOCK, columns & -columns)))
    check_table(columns, format)
    return format


def check_table(columns: int, format: QuantFormat) -> None:
    """Raises ExportError for a table with partial blocks, which lookups do not support."""
    if columns % format.block:
        problem = f"an embedding of {columns} columns is not made of blocks of {format.block}"
        raise ExportError(problem, fix="keep the language model in fp16")


@dataclass(frozen=True)
class QTensor:
    """weight[n, permutation[k]] = (codes[n, k] − zeros[n, k // block]) · scales[n, k // block].

    `codes` uint8 [N, K], `scales` [N, blocks] of the format's type, `zeros` uint8 [N, blocks] or None if all are the
    format's `default_zero_point`, `permutation` int64 [K] or None if columns keep their order; `input_scale` is the
    scale of static inputs.
    """

    format: QuantFormat
    codes: npt.NDArray[np.uint8]
    scales: npt.NDArray[np.float16 | np.float32]
    zeros: npt.NDArray[np.uint8] | None = None
    permutation: Ints | None = None
    input_scale: float | None = None

    @classmethod
    def empty(cls, format: QuantFormat, rows: int, columns: int) -> QTensor:
        """Returns a symmetric tensor with uninitialized rows, to be filled by `fill`."""
        scales = np.empty((rows, format.blocks(columns)), format.scale_type)
        return cls(format, np.empty((rows, columns), np.uint8), scales)

    def fill(self, row: int, part: QTensor) -> None:
        """Copies the rows of `part` into this tensor, starting at `row`."""
        rows = slice(row, row + len(part.codes))
        self.codes[rows], self.scales[rows] = part.codes, part.scales

    def weight_only(self) -> QTensor:
        """Returns the same weight in 8 bits with one scale per row, for float inputs.

        Scales are rounded up to float16 and codes are recomputed for them, because small float16 values are far apart.
        """
        format = QuantFormat(8, self.codes.shape[1])
        nearest = self.scales.astype(np.float16)
        scales = np.where(nearest < self.scales, np.nextafter(nearest, np.float16(np.inf)), nearest).astype(np.float16)
        steps = (self.codes.astype(np.float32) - self.format.default_zero_point) * (
            self.scales / scales.astype(np.float32)
        )
        return QTensor(format, (np.rint(steps) + format.default_zero_point).astype(np.uint8), scales)

    def with_inputs_per_tensor(self) -> QTensor:
        """Returns the same weight for inputs whose tokens share a scale."""
        return replace(self, format=self.format.with_inputs_per_tensor())

    def dequantize(self) -> Floats:
        """The weight [N, K] in float32, exactly as the kernels reconstruct it."""
        columns = self.codes.shape[1]
        zeros = np.full_like(self.scales, self.format.default_zero_point) if self.zeros is None else self.zeros
        spread = [
            np.repeat(part.astype(np.float32), self.format.block, axis=1)[:, :columns] for part in (zeros, self.scales)
        ]
        values = (self.codes.astype(np.float32) - spread[0]) * spread[1]
        if self.permutation is None:
            return np.asarray(values)
        weight = np.empty_like(values)
        weight[:, self.permutation] = values
        return weight
