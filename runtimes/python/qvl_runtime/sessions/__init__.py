"""Engines that run a bundle's two graphs: one module a target, found by its name."""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import BundleError, EngineError
from ..manifest import ImageGeometry, Manifest
from ..positions import Grid, Ints, interpolation, patch_positions, window_layout

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class LlmInputs:
    """One call of the `llm` graph: new tokens after `past` cached ones.

    `ids` [S], `positions` [3, S], `features` [1 + D, N, H] placed at `feature_places` [N], logits wanted at
    `wanted` [K]; both places count from the first new token. Features are those of images and of D DeepStack layers.
    Tokens of an `answer` are run by the graph for decoding where the bundle has one. `ntk_alpha` is the prompt's.
    """

    ids: Ints
    positions: Ints
    features: Floats
    feature_places: Ints
    wanted: Ints
    past: int
    answer: bool = False
    ntk_alpha: float = 1.0


class Engine(Protocol):
    """Runs the graphs of one bundle and owns their KV cache."""

    def encode(self, pixel_values: Floats, grid: Grid) -> Floats:
        """Patches [frames, patches, dim] → image features and those of D DeepStack layers [1 + D, tokens, H]."""

    def forward(self, inputs: LlmInputs) -> Floats:
        """Logits [K, vocab]; the cache then holds past + S tokens."""

    def clear(self) -> None:
        """Free the KV cache; the next call begins with an empty one."""

    def close(self) -> None:
        """Free everything; any later call raises EngineError."""


def closed(*_: Any, **__: Any) -> NoReturn:
    """What the methods of an engine become when it is closed."""
    raise EngineError("the model is closed", fix="load the bundle again")


def cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available() -> list[str]:
    """The targets this runtime has an engine for."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def _module(target: str) -> Any:
    return importlib.import_module(f"{__name__}.{target}")


def cache_state(target: str, past: int, total: int, capacity: int) -> dict[str, np.ndarray]:
    """What the `llm` graph of a target is told of its cache: `past` tokens of `total` are in it, of `capacity`."""
    state: dict[str, np.ndarray] = _module(target).cache_state(past, total, capacity)
    return state


def vision_feeds(image: ImageGeometry, grid: Grid) -> dict[str, np.ndarray]:
    """What the vision graph takes beside the pixels: where patches are, and their windows; nothing for squares."""
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
    return feeds


def llm_feeds(manifest: Manifest, inputs: LlmInputs, capacity: int) -> dict[str, np.ndarray]:
    """What the `llm` graph takes beside its cache, which has room for `capacity` tokens."""
    return {
        "input_ids": inputs.ids[None],
        "position_ids": np.ascontiguousarray(inputs.positions[:, None]),
        "image_features": inputs.features[0],
        "image_positions": np.stack((np.zeros_like(inputs.feature_places), inputs.feature_places), axis=-1),
        **{f"deepstack_features.{index}": rows for index, rows in enumerate(inputs.features[1:])},
        **({"ntk_alpha": np.array([inputs.ntk_alpha], np.float32)} if manifest.llm.ntk_length else {}),
        "logits_positions": inputs.wanted,
        **cache_state(manifest.target, inputs.past, inputs.past + len(inputs.ids), capacity),
    }


def open_engine(bundle: Path, manifest: Manifest, threads: int | None) -> Engine:
    """The engine of the bundle's target; raises BundleError for a target this runtime does not know."""
    if manifest.target not in available():
        raise BundleError(
            f"is for target {manifest.target!r}, this runtime has {', '.join(available())}",
            where=bundle,
            fix="install the qvl-runtime of the qvl-export that made it, or export for one of these",
        )
    engine: Engine = _module(manifest.target).open(bundle, manifest, threads)
    return engine
