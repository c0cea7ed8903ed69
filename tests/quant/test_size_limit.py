"""Precisions under a size limit, by bundles whose size is not the sum of their parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from qvl_export.errors import ExportError
from qvl_export.qtensor import QuantFormat
from qvl_export.quant.limit import Limit
from qvl_export.quant.mixed_precision import size_limit
from qvl_export.quant.mixed_precision.sensitivity_table import Sensitivity

FORMATS = {"int4": QuantFormat(4, 32), "int8": QuantFormat(8, 32)}
BYTES = {4: 100, 8: 180, 16: 400}
TABLE = [Sensitivity(f"l{i}", (64, 64), {"int4": 0.1 * (i + 1), "int8": 0.01 * (i + 1)}, FORMATS) for i in range(6)]
FIXED, NODES = 1000, 40
"""Bytes of everything else, and of the nodes of every kind of linear that there is."""


class Sizes:
    """Bundles of six linears; `linears` knows nothing of the nodes of a kind."""

    def bundle(self, formats: Mapping[str, QuantFormat]) -> int:
        kinds = {format.bits for format in formats.values()}
        bits = [formats[row.name].bits if row.name in formats else 16 for row in TABLE]
        return FIXED + sum(BYTES[each] for each in bits) + NODES * len(kinds)

    def weight(self, shape: tuple[int, int], format: QuantFormat | None) -> int:
        return BYTES[format.bits if format else 16]

    def linears(self, table: Sequence[Sensitivity]) -> dict[tuple[str, str], int]:
        return {
            (row.name, name): BYTES[bits] for row in table for name, bits in (("int4", 4), ("int8", 8), ("fp16", 16))
        }


SIZES: Any = Sizes()
LEAST = FIXED + 6 * 100 + NODES


@pytest.mark.parametrize("spare", [0, 1, 79, 80, 120, 200, 500, 2000])
def test_no_choice_is_above_the_limit(spare: int) -> None:
    chosen = size_limit.choose(TABLE, Limit(max_size=LEAST + spare), SIZES)
    assert SIZES.bundle(size_limit.formats(TABLE, chosen)) <= LEAST + spare
    if spare < 80:
        assert set(chosen.values()) == {"int4"}
    if spare == 2000:
        assert set(chosen.values()) == {"fp16"}


def test_more_room_costs_no_more_divergence() -> None:
    def cost(size: int) -> float:
        chosen = size_limit.choose(TABLE, Limit(max_size=size), SIZES)
        return sum(row.kl.get(chosen[row.name], 0) for row in TABLE)

    costs = [cost(LEAST + spare) for spare in range(0, 2001, 100)]
    assert costs == sorted(costs, reverse=True)


def test_a_limit_below_the_least_size_names_it() -> None:
    size_limit.check(TABLE, Limit(max_size=LEAST), SIZES)
    size_limit.check(TABLE, Limit(max_kl=0.1), SIZES)
    with pytest.raises(ExportError, match=f"--max-size must be at least {LEAST:,}"):
        size_limit.check(TABLE, Limit(max_size=LEAST - 1), SIZES)


def test_formats_are_those_of_quantized_linears() -> None:
    chosen = {"l0": "int4", "l1": "fp16", "l2": "int8"}
    assert size_limit.formats(TABLE[:3], chosen) == {"l0": FORMATS["int4"], "l2": FORMATS["int8"]}
