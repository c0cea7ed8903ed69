"""Chooses a precision per linear from measured sensitivities and a limit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from qvl_runtime.common.counted import counted

from ...errors import ExportError
from ..limit import Limit
from ..precision import FP16
from .knapsack import choose
from .sensitivity_table import Sensitivity

FLOAT = FP16
"""The precision of a linear that is not quantized."""
Bytes = Callable[[str, str], int]
"""Bytes of a linear, by its name and a precision."""


def solve(table: Sequence[Sensitivity], limit: Limit, nbytes: Bytes, fixed: int) -> dict[str, str]:
    """Returns the precision of every linear by name: the smallest bundle under `max_kl`, or least KL under `max_size`.

    `fixed` is the size of everything else, in bytes. Raises ExportError if the limit cannot be kept.
    """
    names = [(*row.kl, FLOAT) for row in table]
    costs = [[*row.kl.values(), 0.0] for row in table]
    sizes = [
        [float(nbytes(row.name, precision)) for precision in options] for row, options in zip(table, names, strict=True)
    ]
    if limit.max_kl is not None:
        chosen = choose(sizes, costs, limit.max_kl)
    else:
        assert limit.max_size is not None
        chosen = choose(costs, sizes, limit.max_size - fixed)
    if chosen is None:
        raise too_small(limit, fixed + int(sum(map(min, sizes))))
    return {row.name: options[index] for row, options, index in zip(table, names, chosen, strict=True)}


def too_small(limit: Limit, least: int) -> ExportError:
    """The error for a limit below the least possible size."""
    assert limit.max_size is not None
    return ExportError(
        f"no bundle fits in {counted(limit.max_size, 'byte')}",
        fix=f"--max-size must be at least {least:,}",
    )


def predicted(table: Sequence[Sensitivity], chosen: Mapping[str, str]) -> float:
    """The expected divergence of a choice."""
    return sum(row.kl.get(chosen[row.name], 0.0) for row in table)
