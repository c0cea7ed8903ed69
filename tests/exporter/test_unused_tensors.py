"""Tensors that an export leaves out, and the notes about them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qvl_export.checkpoint import unused_tensors
from qvl_export.checkpoint.safetensors_reader import StoredTensor

TYPES = {
    "model.norm.weight": np.float16,
    "score.weight": np.float16,
    "mtp.layers.0.weight": np.float16,
    "model.position_ids": np.int64,
    "model.mask": np.bool_,
    "model.layers.0.mlp.bias": np.int64,
}
TENSORS = {name: StoredTensor(name, Path("x"), np.dtype(kind), (2,), 0) for name, kind in TYPES.items()}


def test_heads_and_buffers_are_unused_and_weights_are_not() -> None:
    assert unused_tensors.heads(TENSORS) == ["score.weight", "mtp.layers.0.weight"]
    assert unused_tensors.buffers(TENSORS) == ["model.position_ids", "model.mask"]


def test_one_note_per_kind() -> None:
    heads, buffers = unused_tensors.notes(TENSORS)
    assert heads == "left out, as heads that answers do not go through: mtp.layers.0.weight, score.weight"
    assert buffers == "left out, as integer buffers: model.mask, model.position_ids"
    assert unused_tensors.notes({"model.norm.weight": TENSORS["model.norm.weight"]}) == []
