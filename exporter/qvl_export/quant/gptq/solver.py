"""GPTQ: quantizes columns in order; later columns compensate for each column's error.

Source: Frantar et al., arXiv 2210.17323. Columns are processed by descending Hessian diagonal (act-order), while scales
belong to fixed blocks of neighboring columns (static groups), so no `g_idx` is needed at run time.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...common.arrays import Floats
from ...errors import ExportError
from ...qtensor import QTensor, QuantFormat
from .column_sweep import sweep_columns
from .refine import ROUNDS, Objective, mean_diagonal, refine
from .scale_search import BlockGrid, expand_blocks, quantize, search

DAMP_PERCENT = 0.01
DAMP_STEP = 3.0


def round_to_nearest(weight: Floats, format: QuantFormat, importance: Floats | None = None) -> QTensor:
    """Rounds every weight to its nearest code, with searched scales; weight [N, K], importance [K]."""
    matrix = _finite(weight, "weights")
    weigh = None if importance is None else _finite(importance, "importances")
    grid = search(matrix, weigh, format)
    return _qtensor(_nearest(matrix, grid, format), grid, format)


def gptq(
    weight: Floats, hessian: Floats, format: QuantFormat, damp_percent: float = DAMP_PERCENT, rounds: int = ROUNDS
) -> QTensor:
    """Quantizes weight [N, K] with hessian [K, K] = Σ x xᵀ; never worse than round-to-nearest with the same scales.

    The scale search weights columns by GPTQ's own loss, see `_importance`; the result is refined `rounds` times.
    Damping starts at `damp_percent` (a fraction) of the mean diagonal and grows until the Hessian can be inverted.
    Raises ExportError if weights or the Hessian are not finite.
    """
    matrix, h = _finite(weight, "weights"), _finite(hessian, "activation statistics")
    order = torch.argsort(h.diagonal(), descending=True, stable=True)
    factor, damp = inverse_factor(h[order][:, order], damp_percent)
    grid = search(matrix, _importance(factor, order), format)
    codes = _sweep(matrix, factor, order, grid, format)
    del factor
    nearest = _qtensor(_nearest(matrix, grid, format), grid, format)
    refined = refine(matrix, codes, grid, Objective.of(h, damp), format, rounds) if rounds else (codes, grid)
    result = _qtensor(*refined, format)
    return result if output_error(weight, result, h) <= output_error(weight, nearest, h) else nearest


def _nearest(matrix: Tensor, grid: BlockGrid, format: QuantFormat) -> Tensor:
    scale, zero = (expand_blocks(part, format, matrix.shape[1]) for part in grid)
    return quantize(matrix, scale, zero, format)


def _importance(factor: Tensor, order: Tensor) -> Tensor:
    """The cost of a squared error in each column after later columns have compensated for it: 1 / factor[k, k]²."""
    importance = torch.empty(len(factor))
    importance[order] = factor.diagonal() ** -2
    return importance


def output_error(weight: Floats, quantized: QTensor, hessian: Tensor) -> float:
    """Returns tr((W − Q) H (W − Q)ᵀ), the squared error of the layer's output over the calibration inputs.

    weight [N, K], a torch hessian [K, K].
    """
    difference = torch.from_numpy(weight - quantized.dequantize()).double()
    return float(((difference @ hessian.double()) * difference).sum())


def _sweep(matrix: Tensor, factor: Tensor, order: Tensor, grid: BlockGrid, format: QuantFormat) -> Tensor:
    """Quantizes columns in `order` and returns the codes [N, K] in the original order.

    `factor` is the upper Cholesky factor of the inverse Hessian, with rows and columns in that order.
    """
    scale, zero = (expand_blocks(part, format, matrix.shape[1])[:, order].T.contiguous() for part in grid)
    codes = torch.empty_like(scale)

    def decide(k: int, column: Tensor) -> Tensor:
        codes[k] = quantize(column, scale[k], zero[k], format)
        return (column - (codes[k] - zero[k]) * scale[k]) / factor[k, k]

    sweep_columns(matrix[:, order].T.contiguous(), factor, decide)
    result = torch.empty_like(matrix)
    result[:, order] = codes.T
    return result


def inverse_factor(hessian: Tensor, damp_percent: float) -> tuple[Tensor, float]:
    """Upper Cholesky factor of (H + damp · I)⁻¹, and the damping, which grows until the factor exists."""
    mean = mean_diagonal(hessian)
    damp = damp_percent * mean
    while (factor := _damped_factor(hessian, damp, mean)) is None:
        damp *= DAMP_STEP
    return factor, damp


def _damped_factor(hessian: Tensor, damp: float, unused: float) -> Tensor | None:
    """Upper Cholesky factor of (H + damp · I)⁻¹, computed in float64; None if there is none.

    Columns whose inputs are always zero get the diagonal `unused`. Matrices are freed as soon as possible: at 8,960
    columns each takes 642 MB.
    """
    h = hessian.to(torch.float64, copy=True)
    h.diagonal()[h.diagonal() == 0] = unused
    h.diagonal().add_(damp)
    lower, failed = torch.linalg.cholesky_ex(h)
    del h
    if failed:
        return None
    inverse = torch.cholesky_inverse(lower)
    del lower
    upper, failed = torch.linalg.cholesky_ex(inverse, upper=True)
    return None if failed or not bool(torch.isfinite(upper).all()) else upper.float()


def _qtensor(codes: Tensor, grid: BlockGrid, format: QuantFormat) -> QTensor:
    zeros = grid.zero.to(torch.uint8).numpy() if format.asymmetric else None
    return QTensor(format, codes.to(torch.uint8).numpy(), grid.scale.to(torch.float16).numpy(), zeros)


def _finite(values: Floats, what: str) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
    if not bool(torch.isfinite(tensor).all()):
        raise ExportError(f"{what} are not finite", fix="check the checkpoint and the calibration pages")
    return tensor
