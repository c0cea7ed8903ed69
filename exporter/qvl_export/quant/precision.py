"""Names of precisions, and what each means for the two towers."""

from __future__ import annotations

from qvl_runtime.manifest import DECODE

from ..errors import ExportError
from .schemes import available

FLOATS = ("fp32", "fp16")
TOWERS = ("vision", "llm")
MIXED = "mixed"
"""A precision of its own for every linear, see `mixed`."""
PER_TOWER = {"int4": {"vision": "int8", "llm": "int4"}, "hybrid": {"vision": "int8", "llm": "hybrid"}}
"""Precisions that differ between the towers: pages need all of the vision tower's accuracy, and it is small."""
PHASES = {"hybrid": {"llm": "int8", DECODE: "int4"}}
"""Precisions of a language model that is there twice: prompts are bound by arithmetic, answers by memory."""


def of_towers(precision: str, vision: str | None = None, llm: str | None = None) -> dict[str, str]:
    """The precision of each tower, and of the language model for decoding where it has one of its own.

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
    """How a tower stores what it does not quantize: the first float type of its own precision and the plan's."""
    return next((precision for precision in precisions if precision in FLOATS), "fp16")
