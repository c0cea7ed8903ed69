"""Names of precisions, and their meaning for each of the two towers."""

from __future__ import annotations

from qvl_runtime.manifest import DECODE

from ..errors import ExportError
from .schemes import available

FP32, FP16 = "fp32", "fp16"
FLOATS = (FP32, FP16)
INT4, INT8 = "int4", "int8"
"""Two of the schemes (`schemes.available`), which options and other precisions refer to."""
HYBRID = "hybrid"
"""A language model of two graphs, see `PHASES`."""
MIXED = "mixed"
"""A scheme chosen per linear under a limit, see `mixed_precision`."""
TOWERS = ("vision", "llm")
PER_TOWER = {INT4: {"vision": INT8, "llm": INT4}, HYBRID: {"vision": INT8, "llm": HYBRID}}
"""Precisions that differ between the towers: the vision tower is small, and pages need all of its accuracy."""
PHASES = {HYBRID: {"llm": INT8, DECODE: INT4}}
"""Precisions with two language model graphs: prefill is bound by arithmetic, decode by memory bandwidth."""
CANDIDATES = {"vision": (INT8,), "llm": (INT4, INT8)}
"""Schemes that MIXED chooses from for the linears of each tower, beside float; the coarsest is the first."""


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


def schemes_of(quantized: str) -> list[str]:
    """The schemes that quantize linears of a graph of this precision: its own, or all candidates of MIXED."""
    if quantized == MIXED:
        return sorted({name for names in CANDIDATES.values() for name in names})
    return [quantized]


def of_floats(*precisions: str) -> str:
    """Returns the float type of unquantized weights: the first float in `precisions`, else fp16."""
    return next((precision for precision in precisions if precision in FLOATS), FP16)
