"""Engines that run a bundle's two graphs: one module a target, found by its name."""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import BundleError
from ..manifest import Manifest
from ..positions import Grid, Ints

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


def open_engine(bundle: Path, manifest: Manifest, threads: int | None) -> Engine:
    """The engine of the bundle's target; raises BundleError for a target this runtime does not know."""
    if manifest.target not in available():
        raise BundleError(
            f"is for target {manifest.target!r}, this runtime has {', '.join(available())}",
            where=bundle,
            fix="pip install -U qvl-runtime, or export for one of these",
        )
    engine: Engine = _module(manifest.target).open(bundle, manifest, threads)
    return engine
