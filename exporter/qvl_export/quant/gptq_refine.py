"""Codes and scales of a quantized weight moved to a lower output error, in turns: scales for codes, codes for scales.

GPTQ decides every column once and never comes back to it, under scales that were chosen before. The scales that suit
its codes best have a closed form (least squares); codes are gone through once more, each to the best under all others
as they now are (cyclic coordinate descent: Behdin et al., QuantEase, arXiv 2309.01885). Rows do not depend on each
other.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .grid import Grid, blocked, half, spread
from .qtensor import Layout

ROUNDS = 2
COLUMNS_AT_ONCE = 128
"""Columns whose updates are gathered into one product."""
SYSTEMS_AT_ONCE = 1 << 24
"""Numbers in the equations of the rows whose scales are found together (64 MiB)."""
HOLD = 1e-6
"""How much scales are held to what they were, of their equations' mean diagonal: those of blocks of zeros stay."""


class Objective(NamedTuple):
    """What an error in a row's weights [K] costs: d (H + damp · I) dᵀ, hessian [K, K]."""

    hessian: Tensor
    damp: float

    def times(self, rows: Tensor) -> Tensor:
        """rows · (H + damp · I)."""
        return torch.addmm(rows, rows, self.hessian, beta=self.damp)

    def cost(self, difference: Tensor) -> Tensor:
        """Of every row of `difference` [N, K], in float64: [N]."""
        return (self.times(difference) * difference).sum(1, dtype=torch.float64)


def refine(
    weight: Tensor, codes: Tensor, grid: Grid, objective: Objective, layout: Layout, rounds: int = ROUNDS
) -> tuple[Tensor, Grid]:
    """Better codes and scales of weight [N, K] than `codes` [N, K] and `grid`; zero points stay.

    In every round a row changes only where its cost falls.
    """
    best, scale = codes - spread(grid.zero, layout, codes.shape[1]), grid.scale
    cost = objective.cost(weight - best * spread(scale, layout, codes.shape[1]))
    for _ in range(rounds):
        fitted = fit_scales(weight, best, scale, objective, layout)
        found = descend(weight, best, fitted, grid.zero, objective, layout)
        now = objective.cost(weight - found * spread(fitted, layout, codes.shape[1]))
        better = (now < cost)[:, None]
        best, scale = torch.where(better, found, best), torch.where(better, fitted, scale)
        cost = torch.minimum(now, cost)
    return best + spread(grid.zero, layout, codes.shape[1]), Grid(scale, grid.zero)


def fit_scales(weight: Tensor, steps: Tensor, scale: Tensor, objective: Objective, layout: Layout) -> Tensor:
    """The scales [N, blocks] under which `steps` [N, K], codes less their zero points, cost least; float16 values."""
    blocks = scale.shape[1]
    rows = max(1, SYSTEMS_AT_ONCE // blocks**2)
    parts = zip(torch.split(weight, rows), torch.split(steps, rows), torch.split(scale, rows), strict=True)
    found = torch.cat([_least_squares(*part, objective, layout) for part in parts])
    return half(found, signed=layout.signed_scales)


def _least_squares(weight: Tensor, steps: Tensor, scale: Tensor, objective: Objective, layout: Layout) -> Tensor:
    """Of every row: the scales s that solve BᵀH B s = BᵀH w, where column b of B holds the steps of block b."""
    blocks = [slice(first, first + layout.block) for first in range(0, steps.shape[1], layout.block)]
    matrix = torch.empty(len(steps), len(blocks), len(blocks))
    for number, block in enumerate(blocks):
        product = steps[:, block] @ objective.hessian[block]
        product[:, block] += objective.damp * steps[:, block]
        matrix[:, number] = blocked(product * steps, layout).sum(-1)
    wanted = blocked(objective.times(weight) * steps, layout).sum(-1)
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    held = HOLD * diagonal.mean(1, keepdim=True) + torch.finfo(torch.float32).tiny
    diagonal += held
    solution: Tensor = torch.linalg.solve_ex(matrix, (wanted + held * scale)[..., None])[0]
    return solution[..., 0]


def descend(weight: Tensor, steps: Tensor, scale: Tensor, zero: Tensor, objective: Objective, layout: Layout) -> Tensor:
    """`steps` gone through column by column, each the best under `scale` while all others stay as they are."""
    columns = steps.shape[1]
    step, lowest = spread(scale, layout, columns), -spread(zero, layout, columns)
    highest = lowest + (1 << layout.bits) - 1
    curvature = objective.hessian.diagonal() + objective.damp
    curvature = torch.where(curvature == 0, 1.0, curvature)  # of columns that never fire
    steps, difference = steps.clone(), weight - steps * step
    slope = objective.times(difference)
    for first in range(0, columns, COLUMNS_AT_ONCE):
        last = min(first + COLUMNS_AT_ONCE, columns)
        before = difference[:, first:last].clone()
        for k in range(first, last):
            wanted = weight[:, k] - difference[:, k] + slope[:, k] / curvature[k]
            steps[:, k] = torch.round(wanted / step[:, k]).clamp(lowest[:, k], highest[:, k])
            moved = weight[:, k] - steps[:, k] * step[:, k] - difference[:, k]
            difference[:, k] += moved
            slope[:, k + 1 : last] += moved[:, None] * objective.hessian[k, k + 1 : last]
        slope[:, last:] += (difference[:, first:last] - before) @ objective.hessian[first:last, last:]
    return steps
