"""The result of one model of a comparison."""

from __future__ import annotations

from dataclasses import dataclass

from .records import Cost, Records


@dataclass(frozen=True)
class Contender:
    """A model that has answered: its description, cost and records."""

    title: str
    path: str
    precisions: str
    family: str
    size_mb: float
    cost: Cost
    records: Records
