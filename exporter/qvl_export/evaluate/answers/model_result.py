"""The result of one model of a comparison."""

from __future__ import annotations

from dataclasses import dataclass

from .records import Cost, Records


@dataclass(frozen=True)
class ModelResult:
    """The description, cost and answers of a model; `family` is empty for PyTorch."""

    title: str
    path: str
    precisions: str
    family: str
    size_mb: float
    cost: Cost
    records: Records
