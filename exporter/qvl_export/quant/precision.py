"""Names of precisions, and their meaning for each of the two towers."""

from __future__ import annotations

from qvl_runtime.manifest import DECODE

from ..errors import ExportError
from .schemes import available

FLOATS = ("fp32", "fp16")
TOWERS = ("vision", "llm")
MIXED = "mixed"
"""A precision chosen per linear, see `mixed_precision`."""
PER_TOWER = {"int4": {"vision": "int8", "llm": "int4"}, "hybrid": {"vision": "int8", "llm": "hybrid"}}
"""Precisions that differ between the towers: the vision tower is small, and pages need all of its accuracy."""
PHASES = {"hybrid": {"llm": "int8", DECODE: "int4"}}
"""Precisions with two language model graphs: prefill is bound by arithmetic, decode by memory bandwidth."""


def of_towers(precision: str, vision: str | None = None, llm: str | None = None) -> dict[str, str]:
    """Returns the precision of each tower, and of the decode graph if it has its own.

    `vision` and `llm` override `precision`. Raises ExportError for unknown names.
    """
    chosen = {tower: PER_TOWER.get(precision, {}).get(tower, precision) for tower in TOWERS}
    chosen |= {tower: asked for tower, asked in (("vision", vision), ("llm", llm)) if asked}
    known = (*FLOATS, *available())
    asked_for = ("precision", precision, PER_TOWER), ("vision precision", chosen["vision"], ())
    for what, name, also in (*asked_for, ("llm precision", chosen["llm"], PHASES)):
        if name not in (*known, *also):
            supported = ", ".join(dict.fromkeys((*known, *also)))
            raise ExportError(f"{what} {name!r} is not supported", fix=f"supported: {supported}")
    return chosen | PHASES.get(chosen["llm"], {})


def of_floats(*precisions: str) -> str:
    """Returns the float type of unquantized weights: the first float in `precisions`, else fp16."""
    return next((precision for precision in precisions if precision in FLOATS), "fp16")
