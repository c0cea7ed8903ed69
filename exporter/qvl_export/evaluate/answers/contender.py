"""A model of a comparison after it answered."""

from __future__ import annotations

from dataclasses import dataclass

from .records import Cost, Records


@dataclass(frozen=True)
class Contender:
    """A model that answered: what it is, what it cost, and its records."""

    title: str
    path: str
    precisions: str
    family: str
    size_mb: float
    cost: Cost
    records: Records
