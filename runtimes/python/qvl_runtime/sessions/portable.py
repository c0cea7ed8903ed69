"""Target `portable`: standard ONNX in ONNX Runtime on a CPU."""

from __future__ import annotations

import numpy as np

from .cpu import open

__all__ = ["cache_state", "open"]


def cache_state(past: int, total: int, capacity: int) -> dict[str, np.ndarray]:
    """Where new tokens are written [1], and what each sees of the cache: itself and what came before.

    The mask is bool [1, 1, total − past, capacity].
    """
    own = np.arange(past, total)[:, None]
    return {"write_indices": np.array([past], np.int64), "attention_mask": (np.arange(capacity) <= own)[None, None]}
