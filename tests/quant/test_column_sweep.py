"""The error of every column reaches all later ones, within a block and beyond it."""

from __future__ import annotations

import pytest
import torch

from qvl_export.quant.gptq.column_sweep import COLUMNS_AT_ONCE, sweep_columns


@pytest.mark.parametrize("columns", [1, 5, COLUMNS_AT_ONCE + 3])
def test_it_equals_column_after_column(columns: int) -> None:
    values = torch.randn(columns, 4, generator=torch.manual_seed(0), dtype=torch.float64)
    influence = torch.randn(columns, columns, generator=torch.manual_seed(1), dtype=torch.float64) / columns
    expected, seen = values.clone(), []
    for k in range(columns):
        error = expected[k] - expected[k].round()
        for j in range(k + 1, columns):
            expected[j] -= influence[k, j] * error

    def decide(k: int, column: torch.Tensor) -> torch.Tensor:
        seen.append((k, column.clone()))
        return column - column.round()

    sweep_columns(values.clone(), influence, decide)
    assert [k for k, _ in seen] == list(range(columns))
    assert torch.allclose(torch.stack([column for _, column in seen]), expected)
