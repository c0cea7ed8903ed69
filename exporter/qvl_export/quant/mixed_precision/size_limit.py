"""A limit fitted: the precisions that `search` chooses, held against the size of the bundle that they really make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...qtensor import Layout
from ..limit import Limit
from . import search
from .bundle_size import Sizes
from .search import FLOAT, Bytes
from .sensitivity_table import Sensitivity

ATTEMPTS = 8
"""At a choice that keeps the limit, before the lightest is taken: a few hundred bytes are all that is ever missing."""


def check(table: Sequence[Sensitivity], limit: Limit, sizes: Sizes) -> None:
    """Raise ExportError for a size that no choice from a table can have."""
    shapes = {row.name: row for row in table}

    def weight(name: str, precision: str) -> int:
        return sizes.weight(shapes[name].shape, shapes[name].forms.get(precision))

    if limit.max_size is not None:
        least = sizes.bundle(forms(table, _lightest(table, weight)))
        if least > limit.max_size:
            raise search.too_small(limit, least)


def choose(table: Sequence[Sensitivity], limit: Limit, sizes: Sizes) -> dict[str, str]:
    """The precision of every linear by name; raises ExportError where no choice keeps the limit."""
    parts = sizes.linears(table)

    def nbytes(name: str, precision: str) -> int:
        return parts[name, precision]

    if limit.max_size is None:
        return search.solve(table, limit, nbytes, 0)
    lightest = _lightest(table, nbytes)
    least, spare = sizes.bundle(forms(table, lightest)), 0
    fixed = least - sum(parts[part] for part in lightest.items())
    for _ in range(ATTEMPTS):
        chosen = search.solve(table, limit, nbytes, fixed + spare)
        over = sizes.bundle(forms(table, chosen)) - limit.max_size
        if over <= 0:
            return chosen
        spare = min(spare + over, limit.max_size - least)
    return lightest


def forms(table: Sequence[Sensitivity], chosen: Mapping[str, str]) -> dict[str, Layout]:
    """Of the linears that a choice quantizes."""
    return {row.name: row.forms[chosen[row.name]] for row in table if chosen[row.name] in row.forms}


def _lightest(table: Sequence[Sensitivity], nbytes: Bytes) -> dict[str, str]:
    return {row.name: min((*row.forms, FLOAT), key=lambda choice: nbytes(row.name, choice)) for row in table}
