"""Runs the vision tower over placed media, over the kept blocks alone if some are left out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..manifest import ImageGeometry
from ..positions import Grid, Ints
from ..prompts.prompt import PlacedMedia
from ..prune.kept import patches_of
from ..sessions.engine import Floats

Encode = Callable[[Floats, Grid, Ints | None], Floats]
"""`sessions.engine.Engine.encode`."""


def encode(tower: Encode, placed: PlacedMedia, geometry: ImageGeometry) -> Floats:
    """Returns the features [1 + D, tokens, hidden] of the whole media and of D DeepStack layers.

    Temporal patches that keep the same blocks are one call of the tower: each attends only to itself.
    """
    patches = placed.patches(geometry)
    if placed.kept is None:
        return tower(patches.pixel_values, patches.grid, None)
    features: Floats | None = None
    for frames, cells in placed.kept.groups():
        chosen = patches_of(cells, geometry.spatial_merge_size)
        grid = Grid(len(frames), patches.grid.h, patches.grid.w)
        found = tower(np.ascontiguousarray(patches.pixel_values[frames][:, chosen]), grid, cells)
        if features is None:
            features = np.empty((len(found), placed.kept.tokens, found.shape[-1]), found.dtype)
        for rows, frame in zip(np.split(found, len(frames), axis=1), frames, strict=True):
            first = placed.kept.first_row(frame)
            features[:, first : first + len(cells)] = rows
    assert features is not None  # a grid has at least one temporal patch
    return features
