"""Scales and codes of a quantized weight moved to a lower output error, the ones for the others and in turns.

GPTQ decides every column once and never comes back to it, under scales that were chosen before. The scales that suit
its codes best have a closed form (least squares); then codes are gone through once more, each to the best under all
others as they now are (cyclic coordinate descent: Behdin et al., QuantEase, arXiv 2309.01885).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...qtensor import Layout
from .column_sweep import one_by_one
from .scale_search import Grid, blocked, half, spread

ROUNDS = 1
"""A second one takes another 1 % of the error away, on pages it was not calibrated on as well."""
WEIGHTS_AT_ONCE = 1 << 24
"""Weights whose rows are refined together, and numbers in the equations of rows whose scales are found together."""
HOLD = 1e-6
"""How much scales are held to what they were, of their equations' mean diagonal: those of blocks of zeros stay."""


def mean_diagonal(hessian: Tensor) -> float:
    """How loud inputs are; 1 where none ever fires."""
    return float(hessian.diagonal().double().mean()) or 1.0


class Objective(NamedTuple):
    """What an error in a row's weights d [K] costs: d (H + damp · I) dᵀ, hessian [K, K]."""

    hessian: Tensor
    damp: float

    @classmethod
    def of(cls, hessian: Tensor, damp: float) -> Objective:
        """With a mean diagonal of one, so that inputs of any loudness stay within float32's range."""
        mean = mean_diagonal(hessian)
        return cls(hessian / mean, damp / mean)

    def times(self, rows: Tensor) -> Tensor:
        """rows · (H + damp · I), [N, K]."""
        return torch.addmm(rows, rows, self.hessian, beta=self.damp)

    def cost(self, difference: Tensor) -> Tensor:
        """Of every row of `difference` [N, K], in float64: [N]."""
        return (self.times(difference) * difference).sum(1, dtype=torch.float64)


def refine(
    weight: Tensor, codes: Tensor, grid: Grid, objective: Objective, layout: Layout, rounds: int = ROUNDS
) -> tuple[Tensor, Grid]:
    """Codes [N, K] and scales of weight [N, K] that cost less than `codes`, float32 of whole numbers, under `grid`.

    Zero points stay. In every round a row changes only where its cost falls; rows do not depend on each other.
    """
    rows = max(1, WEIGHTS_AT_ONCE // weight.shape[1])
    parts = zip(*(torch.split(tensor, rows) for tensor in (weight, codes, grid.scale, grid.zero)), strict=True)
    found = [_refine_rows(w, c, Grid(scale, zero), objective, layout, rounds) for w, c, scale, zero in parts]
    return torch.cat([part for part, _ in found]), Grid(torch.cat([scale for _, scale in found]), grid.zero)


def _refine_rows(
    weight: Tensor, codes: Tensor, grid: Grid, objective: Objective, layout: Layout, rounds: int
) -> tuple[Tensor, Tensor]:
    """Codes and scales of some rows."""
    columns = weight.shape[1]
    zero = spread(grid.zero, layout, columns)
    best, scale = codes - zero, grid.scale
    cost = objective.cost(weight - best * spread(scale, layout, columns))
    for _ in range(rounds):
        fitted = fit_scales(weight, best, scale, objective, layout)
        found = descend(weight, best, Grid(fitted, grid.zero), objective, layout)
        now = objective.cost(weight - found * spread(fitted, layout, columns))
        better = (now < cost)[:, None]
        best, scale = torch.where(better, found, best), torch.where(better, fitted, scale)
        cost = torch.minimum(now, cost)
    return best + zero, scale


def fit_scales(weight: Tensor, steps: Tensor, scale: Tensor, objective: Objective, layout: Layout) -> Tensor:
    """Scales [N, blocks] under which `steps` [N, K], codes less zero points, cost least for weight [N, K], as float16.

    `scale` [N, blocks] are those they had.
    """
    rows = max(1, WEIGHTS_AT_ONCE // scale.shape[1] ** 2)
    parts = zip(torch.split(weight, rows), torch.split(steps, rows), torch.split(scale, rows), strict=True)
    found = torch.cat([_least_squares(*part, objective, layout) for part in parts])
    return half(found, signed=layout.signed_scales)


def _least_squares(weight: Tensor, steps: Tensor, scale: Tensor, objective: Objective, layout: Layout) -> Tensor:
    """Of every row: the scales s that solve BᵀH B s = BᵀH w, where column b of B holds the steps of block b."""
    columns, blocks = steps.shape[1], scale.shape[1]
    matrix = torch.zeros(len(steps), blocks, blocks)
    for number, first in enumerate(range(0, columns, layout.block)):
        last = min(first + layout.block, columns)
        product = steps[:, first:last] @ objective.hessian[first:last, first:]
        product[:, : last - first] += objective.damp * steps[:, first:last]
        matrix[:, number, number:] = blocked(product * steps[:, first:], layout).sum(-1)
    matrix += matrix.triu(1).mT
    wanted = blocked(objective.times(weight) * steps, layout).sum(-1)
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    held = HOLD * diagonal.mean(1, keepdim=True) + torch.finfo(torch.float32).tiny
    diagonal += held
    lower, _ = torch.linalg.cholesky_ex(matrix)  # where a row has none, what comes out costs more and is not taken
    return torch.cholesky_solve((wanted + held * scale)[..., None], lower)[..., 0]


def descend(weight: Tensor, steps: Tensor, grid: Grid, objective: Objective, layout: Layout) -> Tensor:
    """`steps` [N, K] gone through column by column, each the best for weight [N, K] while all others stay."""
    columns = steps.shape[1]
    step, lowest = (spread(part, layout, columns).T.contiguous() for part in (grid.scale, -grid.zero))
    highest = lowest + (1 << layout.bits) - 1
    curvature = objective.hessian.diagonal() + objective.damp
    curvature = torch.where(curvature == 0, 1.0, curvature)  # of columns that never fire
    slope = objective.times(weight - steps * step.T).T.contiguous()
    moved = steps.T.contiguous()

    def decide(k: int, slope: Tensor) -> Tensor:
        before = moved[k].clone()
        moved[k] = torch.round(before + slope / (curvature[k] * step[k])).clamp_(lowest[k], highest[k])
        return (moved[k] - before) * step[k]

    one_by_one(slope, objective.hessian, decide)
    return moved.T
