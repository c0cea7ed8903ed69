"""Quantized linears on disk between calibration and the writing of a bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...common.atomic_output import atomic_file
from ...qtensor import QTensor, QuantFormat


@dataclass(frozen=True)
class SavedLinear:
    """A quantized linear in the work directory (a `checkpoint.quantized.detect.QuantizedSource`)."""

    name: str
    file: Path
    quant_format: QuantFormat
    rows: int
    columns: int

    def format(self) -> QuantFormat:
        return self.quant_format

    def save(self, tensor: QTensor) -> None:
        """Writes a temporary file, then renames it."""
        parts: dict[str, Any] = {name: getattr(tensor, name) for name in ("codes", "scales", "zeros", "input_scale")}
        with atomic_file(self.file) as file:
            np.savez(file, **{name: value for name, value in parts.items() if value is not None})

    def read(self) -> QTensor:
        with np.load(self.file) as parts:
            step = float(parts["input_scale"]) if "input_scale" in parts else None
            return QTensor(self.quant_format, parts["codes"], parts["scales"], parts.get("zeros"), input_scale=step)
