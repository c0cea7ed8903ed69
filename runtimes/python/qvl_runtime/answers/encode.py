"""Runs the vision tower over placed media, over the kept blocks alone if some are left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ..common.arrays import Floats, Ints
from ..manifest import ImageGeometry
from ..positions import Grid
from ..prompts.prompt import PlacedMedia
from ..prune.kept import patches_of

Encode = Callable[[Floats, Grid, Ints | None], Floats]
"""`sessions.engine.Engine.encode`."""


@dataclass(frozen=True)
class TowerInput:
    """One call of the vision tower: patches of these temporal patches (`frames`), and the cells that they are in.

    `cells` [n] is None if the patches are all of the grid.
    """

    frames: list[int]
    pixel_values: Floats
    grid: Grid
    cells: Ints | None


def tower_inputs(placed: PlacedMedia, geometry: ImageGeometry) -> Iterator[TowerInput]:
    """Yields the calls for placed media.

    Temporal patches that keep the same blocks are one call: each attends only to itself.
    """
    patches = placed.patches(geometry)
    if placed.kept is None:
        yield TowerInput(list(range(patches.grid.t)), patches.pixel_values, patches.grid, None)
        return
    for frames, cells in placed.kept.groups():
        chosen = patches_of(cells, geometry.spatial_merge_size)
        grid = Grid(len(frames), patches.grid.h, patches.grid.w)
        yield TowerInput(frames, patches.pixel_values[np.array(frames)[:, None], chosen], grid, cells)


def encode(tower: Encode, placed: PlacedMedia, geometry: ImageGeometry) -> Floats:
    """Returns the features [1 + D, tokens, hidden] of the whole media and of D DeepStack layers."""
    features: Floats | None = None
    for call in tower_inputs(placed, geometry):
        found = tower(call.pixel_values, call.grid, call.cells)
        if placed.kept is None:
            return found
        if features is None:
            features = np.empty((len(found), placed.kept.tokens, found.shape[-1]), found.dtype)
        for rows, frame in zip(np.split(found, len(call.frames), axis=1), call.frames, strict=True):
            first = placed.kept.first_row(frame)
            features[:, first : first + rows.shape[1]] = rows
    assert features is not None  # a grid has at least one temporal patch
    return features
