"""Quantized linears on disk between calibration and the writing of a bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .qtensor import Layout, QTensor


@dataclass(frozen=True)
class SavedLinear:
    """A quantized linear in the work directory (see `stored.QuantizedSource`)."""

    name: str
    file: Path
    form: Layout
    rows: int
    columns: int

    def layout(self) -> Layout:
        return self.form

    def save(self, tensor: QTensor) -> None:
        """Write beside, then rename."""
        parts: dict[str, Any] = {"codes": tensor.codes, "scales": tensor.scales}
        beside = self.file.with_suffix(".tmp.npz")
        np.savez(beside, **parts if tensor.zeros is None else {**parts, "zeros": tensor.zeros})
        beside.rename(self.file)

    def read(self) -> QTensor:
        with np.load(self.file) as parts:
            return QTensor(self.form, parts["codes"], parts["scales"], parts.get("zeros"))
