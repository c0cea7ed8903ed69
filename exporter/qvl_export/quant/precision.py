"""Names of precisions, and what each means for the two towers."""

from __future__ import annotations

from ..errors import ExportError
from .schemes import available

FLOATS = ("fp32", "fp16")
TOWERS = ("vision", "llm")
MIXED = {"int4": {"vision": "int8", "llm": "int4"}}
"""Precisions that differ between the towers: pages need all of the vision tower's accuracy, and it is small."""


def of_towers(precision: str, vision: str | None = None, llm: str | None = None) -> dict[str, str]:
    """The precision of each tower; `vision` and `llm` override. Raises ExportError for unknown names."""
    chosen = {tower: MIXED.get(precision, {}).get(tower, precision) for tower in TOWERS}
    chosen |= {tower: asked for tower, asked in (("vision", vision), ("llm", llm)) if asked}
    known = (*FLOATS, *available())
    for name in (precision, *chosen.values()):
        if name not in known:
            raise ExportError(f"precision {name!r} is not supported", fix=f"supported: {', '.join(known)}")
    return chosen


def of_floats(*precisions: str) -> str:
    """How a tower stores what it does not quantize: the first float type of its own precision and the plan's."""
    return next((precision for precision in precisions if precision in FLOATS), "fp16")
