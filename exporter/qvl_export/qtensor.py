"""`QTensor`: the quantized weight that every scheme produces and every target lowers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from .errors import ExportError

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Layout:
    """The format of a quantized linear, known before its values: `block` columns share a scale (and a zero point).

    With `integer`, inputs are rounded to int8 per token and the product is computed in integers (W8A8); 7-bit codes
    then avoid saturation on x86 without VNNI. `static` inputs have one scale from calibration. `per_tensor` inputs have
    one scale and zero point for all tokens of an image, computed at run time.
    """

    bits: int
    block: int
    asymmetric: bool = False
    permuted: bool = False
    integer: bool = False
    static: bool = False
    per_tensor: bool = False

    def blocks(self, columns: int) -> int:
        """Number of blocks in a row of `columns`; the last may be partial."""
        return -(-columns // self.block)

    @property
    def middle(self) -> int:
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
        inputs = "static int8" if self.static else "int8 per tensor" if self.per_tensor else "int8"
        return f"int{self.bits} × {inputs}" if self.integer else f"int{self.bits} in blocks of {self.block}"


def check_table(columns: int, layout: Layout) -> None:
    """Raises ExportError for a table with partial blocks, which lookups do not support."""
    if columns % layout.block:
        problem = f"an embedding of {columns} columns is not made of blocks of {layout.block}"
        raise ExportError(problem, fix="give a smaller --block-size")


@dataclass(frozen=True)
class QTensor:
    """weight[n, permutation[k]] = (codes[n, k] − zeros[n, k // block]) · scales[n, k // block].

    `codes` uint8 [N, K], `scales` [N, blocks] of the layout's type, `zeros` uint8 [N, blocks] or None if all are the
    layout's `middle`, `permutation` int64 [K] or None if columns keep their order; `input_scale` is the scale of static
    inputs.
    """

    layout: Layout
    codes: npt.NDArray[np.uint8]
    scales: npt.NDArray[np.float16 | np.float32]
    zeros: npt.NDArray[np.uint8] | None = None
    permutation: npt.NDArray[np.int64] | None = None
    input_scale: float | None = None

    @classmethod
    def empty(cls, layout: Layout, rows: int, columns: int) -> QTensor:
        """Returns a symmetric tensor with uninitialized rows, to be filled by `fill`."""
        scales = np.empty((rows, layout.blocks(columns)), layout.scale_type)
        return cls(layout, np.empty((rows, columns), np.uint8), scales)

    def fill(self, row: int, part: QTensor) -> None:
        """Copies the rows of `part` into this tensor, starting at `row`."""
        rows = slice(row, row + len(part.codes))
        self.codes[rows], self.scales[rows] = part.codes, part.scales

    def weight_only(self) -> QTensor:
        """Returns the same weight in 8 bits with one scale per row, for float inputs.

        Scales are rounded up to float16 and codes are recomputed for them, because small float16 values are far apart.
        """
        layout = Layout(8, self.codes.shape[1])
        nearest = self.scales.astype(np.float16)
        scales = np.where(nearest < self.scales, np.nextafter(nearest, np.float16(np.inf)), nearest).astype(np.float16)
        steps = (self.codes.astype(np.float32) - self.layout.middle) * (self.scales / scales.astype(np.float32))
        return QTensor(layout, (np.rint(steps) + layout.middle).astype(np.uint8), scales)

    def with_inputs_per_tensor(self) -> QTensor:
        """Returns the same weight for inputs whose tokens share a scale."""
        return replace(self, layout=replace(self.layout, per_tensor=True))

    def dequantize(self) -> Floats:
        """The weight [N, K] in float32, exactly as the kernels reconstruct it."""
        columns = self.codes.shape[1]
        zeros = np.full_like(self.scales, self.layout.middle) if self.zeros is None else self.zeros
        spread = [
            np.repeat(part.astype(np.float32), self.layout.block, axis=1)[:, :columns] for part in (zeros, self.scales)
        ]
        values = (self.codes.astype(np.float32) - spread[0]) * spread[1]
        if self.permutation is None:
            return np.asarray(values)
        weight = np.empty_like(values)
        weight[:, self.permutation] = values
        return weight
