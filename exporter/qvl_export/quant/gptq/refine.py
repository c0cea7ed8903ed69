"""Refines GPTQ's result by alternately re-fitting scales (least squares) and codes (coordinate descent).

GPTQ quantizes each column once, with scales that were chosen before. The best scales for its codes have a closed form
(least squares). Each code is then set to its best value with all others fixed (cyclic coordinate descent: Behdin et
al., QuantEase, arXiv 2309.01885).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...qtensor import QuantFormat
from .column_sweep import sweep_columns
from .scale_search import BlockGrid, expand_blocks, split_blocks, to_float16

ROUNDS = 1
"""A second round reduces the error by another 1 %, on pages outside the calibration set too."""
WEIGHTS_AT_ONCE = 1 << 24
"""Limit of rows refined together, in weights; and of rows whose scales are solved together, in matrix elements."""
HOLD = 1e-6
"""Strength of the pull towards the old scales, relative to the equations' mean diagonal; it keeps the scales of
blocks of zeros unchanged."""


def mean_diagonal(hessian: Tensor) -> float:
    """The mean of the diagonal, i.e. the mean energy of the inputs; 1 if all inputs are zero."""
    return float(hessian.diagonal().double().mean()) or 1.0


class Objective(NamedTuple):
    """The cost of an error d [K] in a row of weights: d (H + damp · I) dᵀ, with the hessian H [K, K]."""

    hessian: Tensor
    damp: float

    @classmethod
    def of(cls, hessian: Tensor, damp: float) -> Objective:
        """Normalizes the mean diagonal to one, so that inputs of any magnitude stay within float32's range."""
        mean = mean_diagonal(hessian)
        return cls(hessian / mean, damp / mean)

    def times(self, rows: Tensor) -> Tensor:
        """rows · (H + damp · I), [N, K]."""
        return torch.addmm(rows, rows, self.hessian, beta=self.damp)

    def cost(self, difference: Tensor) -> Tensor:
        """The cost of each row of `difference` [N, K], summed in float64: [N]."""
        return (self.times(difference) * difference).sum(1, dtype=torch.float64)


def refine(
    weight: Tensor, codes: Tensor, grid: BlockGrid, objective: Objective, format: QuantFormat, rounds: int = ROUNDS
) -> tuple[Tensor, BlockGrid]:
    """Returns codes [N, K] and a grid that cost less for weight [N, K] than `codes` (integers in float32) with `grid`.

    Zero points stay. In each round a row changes only if its cost falls; rows are independent of each other.
    """
    rows = max(1, WEIGHTS_AT_ONCE // weight.shape[1])
    parts = zip(*(torch.split(tensor, rows) for tensor in (weight, codes, grid.scale, grid.zero)), strict=True)
    found = [_refine_rows(w, c, BlockGrid(scale, zero), objective, format, rounds) for w, c, scale, zero in parts]
    return torch.cat([part for part, _ in found]), BlockGrid(torch.cat([scale for _, scale in found]), grid.zero)


def _refine_rows(
    weight: Tensor, codes: Tensor, grid: BlockGrid, objective: Objective, format: QuantFormat, rounds: int
) -> tuple[Tensor, Tensor]:
    """Refines some rows; returns their codes and scales."""
    columns = weight.shape[1]
    zero = expand_blocks(grid.zero, format, columns)
    best, scale = codes - zero, grid.scale
    cost = objective.cost(weight - best * expand_blocks(scale, format, columns))
    for _ in range(rounds):
        fitted = fit_scales(weight, best, scale, objective, format)
        found = descend(weight, best, BlockGrid(fitted, grid.zero), objective, format)
        now = objective.cost(weight - found * expand_blocks(fitted, format, columns))
        better = (now < cost)[:, None]
        best, scale = torch.where(better, found, best), torch.where(better, fitted, scale)
        cost = torch.minimum(now, cost)
    return best + zero, scale


def fit_scales(weight: Tensor, steps: Tensor, scale: Tensor, objective: Objective, format: QuantFormat) -> Tensor:
    """Returns the scales [N, blocks] of least cost for weight [N, K] and `steps` [N, K], codes minus zero points.

    The result is rounded to float16. `scale` [N, blocks] holds the old scales.
    """
    rows = max(1, WEIGHTS_AT_ONCE // scale.shape[1] ** 2)
    parts = zip(torch.split(weight, rows), torch.split(steps, rows), torch.split(scale, rows), strict=True)
    found = torch.cat([_least_squares(*part, objective, format) for part in parts])
    return to_float16(found, signed=format.signed_scales)


def _least_squares(weight: Tensor, steps: Tensor, scale: Tensor, objective: Objective, format: QuantFormat) -> Tensor:
    """Solves BᵀH B s = BᵀH w for the scales s of each row; column b of B holds the steps of block b."""
    columns, blocks = steps.shape[1], scale.shape[1]
    matrix = torch.zeros(len(steps), blocks, blocks)
    for number, first in enumerate(range(0, columns, format.block)):
        last = min(first + format.block, columns)
        product = steps[:, first:last] @ objective.hessian[first:last, first:]
        product[:, : last - first] += objective.damp * steps[:, first:last]
        matrix[:, number, number:] = split_blocks(product * steps[:, first:], format).sum(-1)
    matrix += matrix.triu(1).mT
    wanted = split_blocks(objective.times(weight) * steps, format).sum(-1)
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    held = HOLD * diagonal.mean(1, keepdim=True) + torch.finfo(torch.float32).tiny
    diagonal += held
    lower, _ = torch.linalg.cholesky_ex(matrix)  # if it fails for a row, the result costs more and is rejected
    return torch.cholesky_solve((wanted + held * scale)[..., None], lower)[..., 0]


def descend(weight: Tensor, steps: Tensor, grid: BlockGrid, objective: Objective, format: QuantFormat) -> Tensor:
    """One pass of coordinate descent: sets each column of `steps` [N, K] to its best value with all others fixed."""
    columns = steps.shape[1]
    step, lowest = (expand_blocks(part, format, columns).T.contiguous() for part in (grid.scale, -grid.zero))
    highest = lowest + (1 << format.bits) - 1
    curvature = objective.hessian.diagonal() + objective.damp
    curvature = torch.where(curvature == 0, 1.0, curvature)  # columns whose inputs are always zero
    slope = objective.times(weight - steps * step.T).T.contiguous()
    moved = steps.T.contiguous()

    def decide(k: int, slope: Tensor) -> Tensor:
        before = moved[k].clone()
        moved[k] = torch.round(before + slope / (curvature[k] * step[k])).clamp_(lowest[k], highest[k])
        return (moved[k] - before) * step[k]

    sweep_columns(slope, objective.hessian, decide)
    return moved.T
