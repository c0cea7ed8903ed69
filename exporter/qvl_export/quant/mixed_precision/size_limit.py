"""Chooses precisions under a size limit: checks the choice of `search` against the exact size of the bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...qtensor import QuantFormat
from ..limit import Limit
from . import search
from .bundle_size import Sizes
from .search import FLOAT, Bytes
from .sensitivity_table import Sensitivity

ATTEMPTS = 8
"""Attempts before the lightest choice is taken; a choice is never more than a few hundred bytes above the limit."""


def check(table: Sequence[Sensitivity], limit: Limit, sizes: Sizes) -> None:
    """Raises ExportError if no choice from the table keeps the size limit."""
    shapes = {row.name: row for row in table}

    def weight(name: str, precision: str) -> int:
        return sizes.weight(shapes[name].shape, shapes[name].formats.get(precision))

    if limit.max_size is not None:
        least = sizes.bundle(formats(table, _lightest(table, weight)))
        if least > limit.max_size:
            raise search.too_small(limit, least)


def choose(table: Sequence[Sensitivity], limit: Limit, sizes: Sizes) -> dict[str, str]:
    """Returns the precision of every linear by name; raises ExportError if no choice keeps the limit."""
    parts = sizes.linears(table)

    def nbytes(name: str, precision: str) -> int:
        return parts[name, precision]

    if limit.max_size is None:
        return search.solve(table, limit, nbytes, 0)
    lightest = _lightest(table, nbytes)
    least, spare = sizes.bundle(formats(table, lightest)), 0
    fixed = least - sum(parts[part] for part in lightest.items())
    for _ in range(ATTEMPTS):
        chosen = search.solve(table, limit, nbytes, fixed + spare)
        over = sizes.bundle(formats(table, chosen)) - limit.max_size
        if over <= 0:
            return chosen
        spare = min(spare + over, limit.max_size - least)
    return lightest


def formats(table: Sequence[Sensitivity], chosen: Mapping[str, str]) -> dict[str, QuantFormat]:
    """The formats of the linears that a choice quantizes."""
    return {row.name: row.formats[chosen[row.name]] for row in table if chosen[row.name] in row.formats}


def _lightest(table: Sequence[Sensitivity], nbytes: Bytes) -> dict[str, str]:
    return {row.name: min((*row.formats, FLOAT), key=lambda choice: nbytes(row.name, choice)) for row in table}
