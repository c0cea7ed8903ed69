"""Embeddings and heads, round-to-nearest, some rows at a time: they have many, and none knows of the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..safetensors_file import Tensor
from .gptq import round_to_nearest
from .qtensor import Layout, QTensor
from .saved import SavedLinear

ROWS_BYTES = 16 << 20


def quantize_rows(tensor: Tensor, layout: Layout, directory: Path) -> SavedLinear:
    """A table [rows, columns] in `layout`, kept in `directory` unless an earlier run did."""
    name = tensor.name.removesuffix(".weight")
    columns = tensor.shape[1]
    linear = SavedLinear(name, directory / f"{name}.npz", layout, *tensor.shape)
    if not linear.file.is_file():
        chunks = tensor.chunks(ROWS_BYTES)
        pieces = [round_to_nearest(chunk.astype(np.float32).reshape(-1, columns), layout) for chunk in chunks]
        codes, scales = (np.concatenate([getattr(piece, part) for piece in pieces]) for part in ("codes", "scales"))
        linear.save(QTensor(layout, codes, scales))
    return linear
