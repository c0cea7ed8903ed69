"""Target `portable`: standard ONNX in ONNX Runtime on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..manifest import Manifest

if TYPE_CHECKING:
    from .cpu import CpuEngine

__all__ = ["cache_state", "check", "open"]


def open(bundle: Path, manifest: Manifest, threads: int | None) -> CpuEngine:
    """Loads the graphs; raises BundleError if ONNX Runtime rejects one."""
    from . import cpu  # here, since other targets import `cache_state` from this file without ONNX Runtime

    if manifest.cache_form == "scatter":
        return cpu.open(bundle, manifest, threads)
    from ._concat import ConcatLlm

    return cpu.CpuEngine(cpu.open_vision(bundle, manifest, threads), ConcatLlm(bundle, manifest, threads))


def check(bundle: Path, manifest: Manifest) -> None:
    """Raises InstallError without ONNX Runtime."""
    from .._onnxruntime import library  # noqa: F401  (raises the error)


def cache_state(past: int, total: int, capacity: int) -> dict[str, np.ndarray]:
    """Returns the index [1] at which new tokens are written, and the causal mask of the new tokens over the cache.

    The mask is bool [1, 1, total − past, capacity].
    """
    own = np.arange(past, total)[:, None]
    return {"write_indices": np.array([past], np.int64), "attention_mask": (np.arange(capacity) <= own)[None, None]}
