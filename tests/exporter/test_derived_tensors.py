"""Tensors that are computed from stored ones when they are read."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qvl_export.checkpoint.derived_tensors import interpolation_matrix


@pytest.mark.parametrize("sizes", [(16, 32), (16, 8), (16, 16), (16, 5), (7, 19), (1, 4)])
def test_tables_are_interpolated_as_pytorch_does(sizes: tuple[int, int]) -> None:
    size, wanted = sizes
    table = torch.randn(1, 3, size, size, generator=torch.manual_seed(0))
    expected = torch.nn.functional.interpolate(table, (wanted, wanted), mode="bicubic", align_corners=False)
    matrix = interpolation_matrix(size, wanted)
    assert np.abs(matrix @ table[0].numpy() @ matrix.T - expected[0].numpy()).max() < 1e-5
