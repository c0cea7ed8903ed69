"""Computes the graph inputs other than pixels and KV cache: token ids, features, indices, positions and lengths."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache

import numpy as np

from ..common.arrays import Ints
from ..manifest import ImageGeometry, Manifest
from ..positions import Grid, interpolation, patch_positions, window_layout
from ..prune.kept import only
from .engine import LlmInputs


def vision_feeds(image: ImageGeometry, grid: Grid, cells: Ints | None = None) -> dict[str, np.ndarray]:
    """Returns the vision graph's inputs except the pixels: patch positions and windows; none for square images.

    They are those of all patches, or of those in the `cells` [n] of the merged grid that are kept of every frame.
    """
    if image.queries:
        return {}
    feeds: dict[str, np.ndarray] = {
        "patch_positions": np.tile(patch_positions(grid, image.spatial_merge_size), (grid.t, 1, 1))
    }
    if image.window:
        windows = window_layout(grid, image.spatial_merge_size, image.window)
        feeds["window_gather"], feeds["window_scatter"] = windows.gather, windows.scatter
        feeds["window_lengths"] = np.tile(windows.lengths, grid.t)
    if image.position_table:
        indices, weights = interpolation(grid, image.spatial_merge_size, image.position_table)
        feeds |= {"interpolation_indices": indices, "interpolation_weights": weights}
    return feeds if cells is None else only(feeds, cells, image)


def llm_feeds(manifest: Manifest, inputs: LlmInputs, capacity: int) -> dict[str, np.ndarray]:
    """Returns the `llm` graph's inputs except the KV cache, which has room for `capacity` tokens."""
    return {
        "input_ids": inputs.ids[None],
        "position_ids": np.ascontiguousarray(inputs.positions[:, None]),
        "image_features": inputs.features[0],
        "image_positions": _in_batch(inputs.feature_indices),
        **{f"deepstack_features.{index}": rows for index, rows in enumerate(inputs.features[1:])},
        **({"ntk_alpha": np.array([inputs.ntk_alpha], np.float32)} if manifest.llm.ntk_length else {}),
        "logits_positions": inputs.wanted,
        **cache_state(manifest.target, inputs.past, inputs.past + len(inputs.ids), capacity),
    }


def _in_batch(indices: Ints) -> Ints:
    """Returns indices [N] of tokens as indices [N, 2] of tokens of the only sequence."""
    positions = np.zeros((len(indices), 2), np.int64)
    positions[:, 1] = indices
    return positions


def cache_state(target: str, past: int, total: int, capacity: int) -> dict[str, np.ndarray]:
    """Returns the target's inputs that describe the cache: `past` of `total` tokens are in it, of `capacity`."""
    return _cache_state_of(target)(past, total, capacity)


@cache
def _cache_state_of(target: str) -> Callable[[int, int, int], dict[str, np.ndarray]]:
    state: Callable[[int, int, int], dict[str, np.ndarray]]
    state = importlib.import_module(f"{__package__}.{target}").cache_state
    return state
