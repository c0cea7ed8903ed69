"""Scales of blocks: the best of all ranges that are tried, by a loop over them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qvl_export.qtensor import QuantFormat
from qvl_export.quant.gptq.scale_search import LEAST_SHRINK, SHRINKS, expand_blocks, quantize, search, split_blocks
from qvl_export.quant.gptq.scale_search import to_float16 as rounded

FORMATS = [QuantFormat(bits, 16, asymmetric) for bits in (4, 8) for asymmetric in (False, True)]


def matrix(rows: int = 5, columns: int = 40) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_t(3, (rows, columns)).astype(np.float32))


def loss(weight: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, format: QuantFormat) -> torch.Tensor:
    """The squared error of every block [N, blocks]."""
    step, middle = (expand_blocks(part, format, weight.shape[1]) for part in (scale, zero))
    error = (quantize(weight, step, middle, format) - middle) * step - weight
    return split_blocks(error.square(), format).sum(-1)


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_no_tried_range_is_better(format: QuantFormat) -> None:
    weight, top = matrix(), (1 << format.bits) - 1
    found = search(weight, None, format)
    best, blocks = loss(weight, *found, format), split_blocks(weight, format)
    for shrink in torch.linspace(1, LEAST_SHRINK, SHRINKS):
        if format.asymmetric:
            low, high = (shrink * end for end in (blocks.amin(-1).clamp(max=0), blocks.amax(-1).clamp(min=0)))
            scale = rounded((high - low) / top)
            zero = torch.clamp(torch.round(-low / scale), 0, top)
        else:
            scale = rounded(shrink * blocks.abs().amax(-1) * 2 / top)
            zero = torch.full_like(scale, format.default_zero_point)
        assert (best <= loss(weight, scale, zero, format) * (1 + 1e-4) + 1e-9).all()


def test_important_columns_are_rounded_better() -> None:
    weight, format = matrix(64, 16), QuantFormat(4, 16)
    importance = torch.ones(16)
    importance[3] = 1e4
    plain, weighed = search(weight, None, format), search(weight, importance, format)

    def error(scale: torch.Tensor, zero: torch.Tensor) -> float:
        return float((((quantize(weight, scale, zero, format) - zero) * scale - weight)[:, 3] ** 2).sum())

    assert error(*weighed) < error(*plain)


def test_scales_are_never_zero_in_float16() -> None:
    tiny = torch.finfo(torch.float16).tiny
    assert rounded(torch.tensor([0.0, 1e-30, 0.1])).tolist() == [tiny, tiny, float(np.float16(0.1))]
    assert rounded(torch.tensor([-1e-30, -0.1]), signed=True).tolist() == [tiny, float(np.float16(-0.1))]
    assert (search(torch.zeros(2, 20), None, QuantFormat(4, 16)).scale > 0).all()


def test_partial_blocks_are_padded_with_zeros() -> None:
    format = QuantFormat(4, 16)
    blocks = split_blocks(matrix(), format)
    assert blocks.shape == (5, 3, 16) and not blocks[:, 2, 8:].any()
    assert expand_blocks(torch.tensor([[1.0, 2.0, 3.0]]), format, 40)[0].tolist() == [1] * 16 + [2] * 16 + [3] * 8
