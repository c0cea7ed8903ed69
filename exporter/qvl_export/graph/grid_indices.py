"""Computes the indices of `qvl_runtime.positions` inside the graph, for runtimes that pass only grids.

Everything is arithmetic on the number of a patch or slot: no loops, no sorting, no data-dependent selection. Names and
values are the same as in `qvl_runtime.positions`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from onnxscript import OpBuilder

from qvl_runtime.manifest import ImageGeometry

from ..targets import WindowInputs
from .build import FLOAT, INT32, INT64


class GridSizes(NamedTuple):
    """Temporal patches, rows and columns of patches, each a scalar."""

    t: ir.Value
    h: ir.Value
    w: ir.Value


class PatchCoordinates(NamedTuple):
    """Row and column of every patch of one frame in merge order, both [patches]."""

    rows: ir.Value
    columns: ir.Value


def grid_of(op: OpBuilder, image_grid_thw: ir.Value) -> GridSizes:
    """The grid of the single image, from [1, 3]."""
    sizes = op.Reshape(image_grid_thw, [3])
    return GridSizes(*(op.Gather(sizes, axis) for axis in range(3)))


def patch_coordinates(op: OpBuilder, grid: GridSizes, merge: int) -> PatchCoordinates:
    """`qvl_runtime.positions.patch_positions`, with rows and columns as separate tensors."""
    patch = op.Range(0, op.Mul(grid.h, grid.w), 1)
    cell, inner = _divmod(op, patch, merge * merge)
    row, column = _divmod(op, cell, op.Div(grid.w, merge))
    down, across = _divmod(op, inner, merge)
    return PatchCoordinates(op.Add(op.Mul(row, merge), down), op.Add(op.Mul(column, merge), across))


def patch_positions(op: OpBuilder, grid: GridSizes, coordinates: PatchCoordinates) -> ir.Value:
    """The input `patch_positions` of the vision graph, [frames, patches, 2]."""
    frame = op.Concat(_each(op, coordinates.rows), _each(op, coordinates.columns), axis=1)
    return op.Expand(op.Unsqueeze(frame, [0]), op.Concat(op.Unsqueeze(grid.t, [0]), [1, 1], axis=0))


def interpolation(
    op: OpBuilder, grid: GridSizes, coordinates: PatchCoordinates, image: ImageGeometry
) -> tuple[ir.Value, ir.Value] | None:
    """`qvl_runtime.positions.interpolation`: table rows and weights, both [4, patches]; None without a table."""
    side = image.position_table
    if not side:
        return None
    rows, row_weights = _neighbors(op, coordinates.rows, grid.h, side)
    columns, column_weights = _neighbors(op, coordinates.columns, grid.w, side)
    indices = op.Add(op.Mul(op.Unsqueeze(rows, [1]), side), columns)  # [2, 1, patches] and [2, patches]
    weights = op.Mul(op.Unsqueeze(row_weights, [1]), column_weights)
    return op.Reshape(indices, [4, -1]), op.Reshape(weights, [4, -1])


def _neighbors(op: OpBuilder, index: ir.Value, size: ir.Value, side: int) -> tuple[ir.Value, ir.Value]:
    """Table entries before and after each position, and their weights, [2, n]; `size` positions span `side` entries."""
    steps = op.Cast(op.Max(op.Sub(size, 1), 1), to=FLOAT)
    position = op.Div(op.Mul(op.Cast(index, to=FLOAT), float(side - 1)), steps)
    both = op.Add(op.Floor(position), op.Constant(value=ir.tensor(np.array([[0], [1]], np.float32))))
    return op.Cast(op.Min(both, float(side - 1)), to=INT64), op.Sub(1.0, op.Abs(op.Sub(position, both)))


class _Cells(NamedTuple):
    """A frame of `rows` × `columns` image tokens in `down` × `across` windows of `side` × `side` tokens."""

    rows: ir.Value
    columns: ir.Value
    down: ir.Value
    across: ir.Value
    side: int

    def corner(self, op: OpBuilder, window: ir.Value) -> tuple[ir.Value, ir.Value]:
        """First row and column of each window."""
        row, column = _divmod(op, window, self.across)
        return op.Mul(row, self.side), op.Mul(column, self.side)

    def extent(self, op: OpBuilder, top: ir.Value, left: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Rows and columns of each window; fewer at the lower and right edges."""
        return op.Min(op.Sub(self.rows, top), self.side), op.Min(op.Sub(self.columns, left), self.side)


def windows(op: OpBuilder, grid: GridSizes, image: ImageGeometry) -> WindowInputs | None:
    """`qvl_runtime.positions.window_layout`, lengths for all frames; None without windows."""
    side, merge = image.window, image.spatial_merge_size
    if not side:
        return None
    rows, columns, unit = op.Div(grid.h, merge), op.Div(grid.w, merge), merge * merge
    down, across = (op.Div(op.Add(count, side - 1), side) for count in (rows, columns))
    cells = _Cells(rows, columns, down, across, side)
    gather = op.Reshape(_gather(op, cells, unit), [-1])
    scatter = op.Reshape(_scatter(op, cells, unit), [-1])
    return WindowInputs(gather, _lengths(op, cells, unit, grid.t), scatter, side * side * unit)


def _gather(op: OpBuilder, cells: _Cells, unit: int) -> ir.Value:
    """The patches in the slots of each window, its own cells first, then patch 0 as padding: [slots, unit]."""
    size = cells.side**2
    slots = op.Mul(op.Mul(cells.down, cells.across), size)
    window, slot = _divmod(op, op.Range(0, slots, 1), size)
    top, left = cells.corner(op, window)
    height, width = cells.extent(op, top, left)
    row, column = _divmod(op, slot, width)
    cell = op.Add(op.Mul(op.Add(top, row), cells.columns), op.Add(left, column))
    return op.Where(_each(op, op.Less(slot, op.Mul(height, width))), _patches(op, cell, unit), 0)


def _lengths(op: OpBuilder, cells: _Cells, unit: int, frames: ir.Value) -> ir.Value:
    """Patches in each window of each frame, [windows]."""
    window = op.Range(0, op.Mul(cells.down, cells.across), 1)
    height, width = cells.extent(op, *cells.corner(op, window))
    lengths = op.Cast(op.Mul(op.Mul(height, width), unit), to=INT32)
    return op.Tile(lengths, op.Unsqueeze(frames, [0]))


def _scatter(op: OpBuilder, cells: _Cells, unit: int) -> ir.Value:
    """The slot of each patch, [cells, unit]."""
    row, column = _divmod(op, op.Range(0, op.Mul(cells.rows, cells.columns), 1), cells.columns)
    (window_row, row), (window_column, column) = _divmod(op, row, cells.side), _divmod(op, column, cells.side)
    window = op.Add(op.Mul(window_row, cells.across), window_column)
    _, width = cells.extent(op, *cells.corner(op, window))
    return _patches(op, op.Add(op.Mul(window, cells.side**2), op.Add(op.Mul(row, width), column)), unit)


def _patches(op: OpBuilder, cell: ir.Value, unit: int) -> ir.Value:
    """The `unit` neighboring patches of each cell: [cells, unit]."""
    return op.Add(_each(op, op.Mul(cell, unit)), op.Range(0, unit, 1))


def _each(op: OpBuilder, x: ir.Value) -> ir.Value:
    return op.Unsqueeze(x, [-1])


def _divmod(op: OpBuilder, x: ir.Value, by: ir.Value | int) -> tuple[ir.Value, ir.Value]:
    return op.Div(x, by), op.Mod(x, by)
