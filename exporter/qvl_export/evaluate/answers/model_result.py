"""The result of one model of a comparison."""

from __future__ import annotations

from dataclasses import dataclass

from qvl_runtime.manifest import BoxNotation

from .records import Cost, Records


@dataclass(frozen=True)
class ModelResult:
    """The description, cost and answers of a model; PyTorch and servers have an empty `family` and no `boxes`."""

    title: str
    path: str
    precisions: str
    family: str
    boxes: BoxNotation | None
    size_mb: float
    cost: Cost
    records: Records
    is_server: bool = False
