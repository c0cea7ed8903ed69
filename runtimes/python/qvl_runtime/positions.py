"""Index inputs of the graphs, computed on the host with numpy.

Grids are in patches: `t` temporal patches of `h` × `w`. Patches are in merge order: the `merge` × `merge` patches of
one image token are adjacent (transformers `vision_utils.get_vision_position_ids`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .common.arrays import Floats, Ints


@dataclass(frozen=True)
class Grid:
    """Numbers of temporal patches, patch rows and patch columns of one image or video."""

    t: int
    h: int
    w: int

    def tokens(self, merge: int) -> int:
        """Returns the number of image tokens, one per merge × merge patches."""
        return self.t * (self.h // merge) * (self.w // merge)


def patch_positions(grid: Grid, merge: int) -> Ints:
    """Returns row and column of every patch of one frame in merge order: [h · w, 2]."""
    rows, columns = np.indices((grid.h, grid.w))
    blocks = np.stack((rows, columns), -1).reshape(grid.h // merge, merge, grid.w // merge, merge, 2)
    return np.ascontiguousarray(blocks.transpose(0, 2, 1, 3, 4).reshape(-1, 2), dtype=np.int64)


def interpolation(grid: Grid, merge: int, side: int) -> tuple[Ints, Floats]:
    """Bilinear interpolation of a `side` × `side` position table over one frame, with aligned corners.

    Returns rows of the flattened table and their weights for every patch in merge order, both [4, h · w]
    (transformers `get_vision_interpolation_indices_and_weights`, in float32 as there).
    """
    cells = patch_positions(grid, merge)
    (rows, row_weights), (columns, column_weights) = (
        _neighbors(cells[:, axis], size, side) for axis, size in enumerate((grid.h, grid.w))
    )
    indices = rows[:, None] * side + columns[None]
    weights = row_weights[:, None] * column_weights[None]
    return indices.reshape(4, -1), weights.reshape(4, -1)


def _neighbors(index: Ints, size: int, side: int) -> tuple[Ints, Floats]:
    """Returns the entries before and after each of `size` positions over `side` entries, and their weights, [2, n]."""
    position = index.astype(np.float32) * np.float32(side - 1) / np.float32(max(size - 1, 1))
    before = np.floor(position)
    both = before + np.array([[0], [1]], np.float32)
    return np.minimum(both, side - 1).astype(np.int64), 1 - np.abs(position - both)


@dataclass(frozen=True)
class Windows:
    """Attention windows of one frame: `gather` [windows · size] patch indices (padding repeats patch 0),
    `lengths` [windows] numbers of real patches, `scatter` [patches] indices in the gathered order."""

    gather: Ints
    lengths: npt.NDArray[np.int32]
    scatter: Ints


def window_layout(grid: Grid, merge: int, side: int) -> Windows:
    """Returns windows of `side` × `side` merged cells in row-major order; those at the right and bottom may be smaller.

    The order is that of transformers' `get_vision_window_index`; its fully padded windows are omitted here.
    """
    rows, columns = grid.h // merge, grid.w // merge
    down, across = -(-rows // side), -(-columns // side)
    cells = np.full((down * side, across * side), -1, dtype=np.int64)
    cells[:rows, :columns] = np.arange(rows * columns).reshape(rows, columns)
    cells = cells.reshape(down, side, across, side).transpose(0, 2, 1, 3).reshape(down * across, side * side)
    unit = merge * merge
    order = np.argsort(cells < 0, axis=1, kind="stable")  # real cells first, padding last
    cells = np.take_along_axis(cells, order, axis=1)
    patches = np.where(cells[..., None] < 0, -1, cells[..., None] * unit + np.arange(unit)).reshape(len(cells), -1)
    real = np.flatnonzero(patches.ravel() >= 0)
    scatter = np.empty(len(real), dtype=np.int64)
    scatter[patches.ravel()[real]] = real
    lengths = (patches >= 0).sum(1).astype(np.int32)
    return Windows(np.maximum(patches, 0).ravel(), lengths, scatter)


@dataclass(frozen=True)
class VisionSpan:
    """Image tokens in a prompt: first token, merged grid, and temporal positions per temporal patch.

    Without those cells of the grid that are not `kept` (None: all are), numbered frame by frame and row by row.
    """

    start: int
    t: int
    h: int
    w: int
    interval: float = 1.0
    kept: tuple[int, ...] | None = None

    @property
    def tokens(self) -> int:
        return self.cells if self.kept is None else len(self.kept)

    @property
    def cells(self) -> int:
        """Number of cells of the grid, kept or not."""
        return self.t * self.h * self.w

    @property
    def end(self) -> int:
        return self.start + self.tokens


def mrope_positions(length: int, spans: Sequence[VisionSpan]) -> Ints:
    """Returns positions [3, length] (time, row, column) of a prompt; `spans` are in order and do not overlap.

    Text advances all axes by one per token; a span starts at the current position and advances it by its longer side,
    whatever of it is kept: kept cells and the text after them have the positions that they have in the whole prompt
    (transformers 5 `get_rope_index`; temporal positions are truncated after a float32 product, as there).
    """
    pieces: list[Ints] = []
    token = position = 0
    for span in spans:
        pieces.append(text_positions(position, span.start - token))
        position += span.start - token
        pieces.append(_vision_positions(position, span))
        position += max(span.h, span.w)
        token = span.end
    pieces.append(text_positions(position, length - token))
    return np.concatenate(pieces, axis=1)


def ntk_alpha(length: int, trained: int) -> float:
    """Returns α (dynamic NTK): a prompt of `length` tokens uses the RoPE base b · α^(d / (d − 2)), d the head size.

    α is 1 up to the `trained` length, 3 up to twice that, 7 up to four times … (Qwen-VL's `use_dynamic_ntk`); an
    answer keeps the α of its prompt.
    """
    if not trained or length <= trained:
        return 1.0
    return float(2 ** math.ceil(math.log2(length / trained) + 1) - 1)


def text_positions(start: int, count: int) -> Ints:
    """Returns the positions [3, count] of text tokens, of which the first has the position `start` on all axes."""
    positions = np.empty((3, count), np.int64)
    positions[:] = np.arange(start, start + count)
    return positions


def _vision_positions(start: int, span: VisionSpan) -> Ints:
    grid = np.indices((span.t, span.h, span.w)).reshape(3, -1).astype(np.int64)
    grid[0] = (grid[0].astype(np.float32) * np.float32(span.interval)).astype(np.int64)
    return np.asarray((grid if span.kept is None else grid[:, span.kept]) + start)
