"""A precision per linear from its sensitivities and a limit."""

from __future__ import annotations

import pytest

from qvl_export import ExportError
from qvl_export.quant.limit import Limit
from qvl_export.quant.mixed_precision import search
from qvl_export.quant.mixed_precision.sensitivity_table import Sensitivity

TABLE = [Sensitivity(f"l{i}", (64, 64), {"int4": 0.01 * (i + 1), "int8": 0.001 * (i + 1)}) for i in range(4)]


BYTES = {"int4": 2, "int8": 4, "fp16": 8}


def nbytes(name: str, precision: str) -> int:
    return BYTES[precision]


def test_the_most_sensitive_keep_their_precision() -> None:
    assert search.solve(TABLE, Limit(max_kl=1.0), nbytes, 0) == dict.fromkeys(("l0", "l1", "l2", "l3"), "int4")
    assert search.solve(TABLE, Limit(max_kl=0.0101), nbytes, 0) == dict.fromkeys(("l0", "l1", "l2", "l3"), "int8")
    chosen = search.solve(TABLE, Limit(max_size=110), nbytes, 100)
    assert chosen == {"l0": "int4", "l1": "int4", "l2": "int4", "l3": "int8"}
    assert search.predicted(TABLE, chosen) == pytest.approx(0.064)


def test_a_size_that_cannot_be_kept() -> None:
    with pytest.raises(ExportError, match=r"no bundle fits in 107 bytes \(--max-size must be at least 108\)"):
        search.solve(TABLE, Limit(max_size=107), nbytes, 100)
