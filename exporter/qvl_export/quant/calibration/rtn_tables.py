"""Rounds embeddings, heads and experts to nearest, some rows at a time; rows are independent of each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...graph.weights import WeightSource
from ...qtensor import QTensor, QuantFormat
from ..gptq.solver import round_to_nearest
from .saved_linear import SavedLinear

ROWS_BYTES = 16 << 20


def quantize_rows(
    name: str, source: WeightSource, shape: tuple[int, int], format: QuantFormat, directory: Path
) -> SavedLinear:
    """Quantizes the table `name` of `shape` [rows, columns] and saves it in `directory`, unless it is there already."""
    linear = SavedLinear(name, directory / f"{name}.npz", format, *shape)
    if not linear.file.is_file():
        tensor, row = QTensor.empty(format, *shape), 0
        for chunk in source.chunks(ROWS_BYTES):
            part = round_to_nearest(chunk.astype(np.float32).reshape(-1, shape[1]), format)
            tensor.fill(row, part)
            row += len(part.codes)
        linear.save(tensor)
    return linear
