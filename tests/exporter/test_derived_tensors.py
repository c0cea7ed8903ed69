"""Tensors that are computed from stored ones when they are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from qvl_export.checkpoint.derived_tensors import (
    Computed,
    interpolation_matrix,
    reordered,
    resized_table,
    transposed,
    whole,
)
from qvl_export.checkpoint.safetensors_reader import StoredTensor, Tensor


@pytest.mark.parametrize("sizes", [(16, 32), (16, 8), (16, 16), (16, 5), (7, 19), (1, 4)])
def test_tables_are_interpolated_as_pytorch_does(sizes: tuple[int, int]) -> None:
    size, wanted = sizes
    table = torch.randn(1, 3, size, size, generator=torch.manual_seed(0))
    expected = torch.nn.functional.interpolate(table, (wanted, wanted), mode="bicubic", align_corners=False)
    matrix = interpolation_matrix(size, wanted)
    assert np.abs(matrix @ table[0].numpy() @ matrix.T - expected[0].numpy()).max() < 1e-5


@pytest.fixture
def source(tmp_path: Path) -> StoredTensor:
    """A matrix of 4 rows and 3 columns in float16."""
    (tmp_path / "data").write_bytes(np.arange(12, dtype=np.float16).tobytes())
    return StoredTensor("table", tmp_path / "data", np.dtype(np.float16), (4, 3), 0)


def values(tensor: Tensor) -> np.ndarray:
    return whole(tensor).reshape(tensor.shape)


def test_rows_are_reordered_and_matrices_transposed(source: StoredTensor) -> None:
    matrix = np.arange(12, dtype=np.float32).reshape(4, 3)
    assert np.array_equal(values(reordered(source, np.array([2, 0, 3, 1]))), matrix[[2, 0, 3, 1]])
    assert np.array_equal(values(transposed(source)), matrix.T)
    assert transposed(source).nbytes == 48 and transposed(source).name == "table"


def test_what_is_computed_row_by_row_needs_no_other_rows(source: StoredTensor) -> None:
    doubled = Computed("double", source, (4, 3), lambda rows: 2 * rows, by_row=True)
    assert len(list(doubled.chunks(8))) == 4
    assert doubled.rows([3, 0]).tolist() == [[18, 20, 22], [0, 2, 4]]
    with pytest.raises(ValueError, match="table is not made row by row"):
        transposed(source).rows([0])


def test_a_resized_table_has_each_channel_resized(source: StoredTensor) -> None:
    assert resized_table(source, 2).shape == (4, 3)
    assert np.allclose(values(resized_table(source, 2)), values(source))
    spread = interpolation_matrix(2, 5)
    grid = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    expected = np.stack([spread @ grid[..., channel] @ spread.T for channel in range(3)], axis=-1)
    assert np.allclose(values(resized_table(source, 5)), expected.reshape(25, 3), atol=1e-5)
