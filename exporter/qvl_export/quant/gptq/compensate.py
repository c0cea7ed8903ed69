"""Rounds the weights of integer products so that later columns compensate for each column's error, as GPTQ does.

Scales stay as they are. Hessians come from the kept tokens alone and only within blocks of columns, so that the time is
a small part of a calibration's; they are shrunk towards their diagonal, because the tokens are few.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ...common.arrays import Floats
from ...qtensor import QTensor
from .column_sweep import sweep_columns
from .solver import DAMP_PERCENT, inverse_factor

BLOCK = 512
"""Columns that compensate for each other; even, so that no pair is split."""
MOST, MOST_OF_PAIR = 127, 128
"""Largest magnitude of a code, and of the sum of two neighbors that must not saturate (`schemes.int8`)."""


def compensate(weight: Floats, nearest: QTensor, tokens: Floats) -> QTensor:
    """Returns `nearest`, the weight [N, K] rounded to nearest, with codes of a smaller error over the tokens [T, K].

    If all pairs of neighbors in `nearest` are within MOST_OF_PAIR, they stay so.
    """
    zero = nearest.format.default_zero_point
    signed = torch.from_numpy(nearest.codes.astype(np.float32) - zero)
    paired = _within_pairs(signed)
    steps = torch.from_numpy(nearest.scales[:, 0].astype(np.float32))
    codes = torch.empty_like(signed)
    for first in range(0, weight.shape[1], BLOCK):
        columns = slice(first, first + BLOCK)
        hessian = _shrunk_hessian(tokens[:, columns])
        matrix = torch.from_numpy(np.ascontiguousarray(weight[:, columns], np.float32))
        codes[:, columns] = _sweep(matrix, steps, hessian, paired)
    return replace(nearest, codes=(codes + zero).numpy().astype(np.uint8))


def _within_pairs(codes: Tensor) -> bool:
    """Whether all sums of columns 2i and 2i + 1 of one sign are within MOST_OF_PAIR."""
    even, odd = codes[:, ::2], codes[:, 1::2]
    return not bool(((even[:, : odd.shape[1]] + odd).abs() > MOST_OF_PAIR).any())


def _shrunk_hessian(tokens: Floats) -> Tensor:
    """Σ x xᵀ over tokens [T, K], whose products of different columns count less the fewer tokens there are."""
    x = torch.from_numpy(np.ascontiguousarray(tokens, np.float32))
    count, columns = x.shape
    hessian = x.T @ x * (count / (count + columns))
    hessian.diagonal().mul_((count + columns) / count)
    return hessian


def _sweep(matrix: Tensor, steps: Tensor, hessian: Tensor, paired: bool) -> Tensor:
    """Codes [N, K] of the matrix in `steps` [N], decided column by column, the loudest inputs first."""
    order = torch.argsort(hessian.diagonal(), descending=True, stable=True)
    factor, _ = inverse_factor(hessian[order][:, order], DAMP_PERCENT)
    codes, names = torch.zeros(len(order) + 1, len(matrix)), order.tolist()

    def decide(k: int, column: Tensor) -> Tensor:
        name = names[k]
        code = torch.round(column / steps).clamp(-MOST, MOST)
        if paired:  # the other one is 0 until it is decided
            other = codes[name ^ 1]
            code = code.clamp(-MOST_OF_PAIR - other.clamp(max=0), MOST_OF_PAIR - other.clamp(min=0))
        codes[name] = code
        return (column - code * steps) / factor[k, k]

    sweep_columns(matrix[:, order].T.contiguous(), factor, decide)
    return codes[:-1].T
