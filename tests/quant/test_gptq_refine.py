"""L3: scales and codes refined after GPTQ, against least squares and brute force in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from qvl_export.qtensor import QuantFormat
from qvl_export.quant.gptq.refine import Objective, descend, fit_scales, refine
from qvl_export.quant.gptq.scale_search import BlockGrid, expand_blocks
from qvl_export.quant.gptq.solver import gptq, output_error, round_to_nearest
from tests.quant.test_gptq_solver import FORMATS, problem

DAMP = 0.5


@dataclass(frozen=True)
class Case:
    """A weight [N, K], round-to-nearest's codes less their zero points, its grid, and the objective."""

    weight: torch.Tensor
    steps: torch.Tensor
    grid: BlockGrid
    objective: Objective

    @property
    def hessian(self) -> np.ndarray:
        return self.objective.hessian.double().numpy() + DAMP * np.eye(self.weight.shape[1])


def case(format: QuantFormat, rows: int = 6, columns: int = 72) -> Case:
    weight, hessian = problem(rows, columns, seed=format.block)
    nearest = round_to_nearest(weight, format)
    scale = torch.from_numpy(nearest.scales.astype(np.float32))
    zeros = nearest.zeros if nearest.zeros is not None else np.full(nearest.scales.shape, format.default_zero_point)
    zero = torch.from_numpy(zeros.astype(np.float32))
    codes = torch.from_numpy(nearest.codes.astype(np.float32))
    objective = Objective(torch.from_numpy(hessian), DAMP)
    return Case(
        torch.from_numpy(weight), codes - expand_blocks(zero, format, columns), BlockGrid(scale, zero), objective
    )


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_scales_are_those_of_least_squares(format: QuantFormat) -> None:
    given = case(format)
    found = fit_scales(given.weight, given.steps, given.grid.scale, given.objective, format).numpy()
    root = np.linalg.cholesky(given.hessian).T  # ‖root d‖² = d H dᵀ
    for row, (weight, steps) in enumerate(zip(given.weight.numpy(), given.steps.numpy(), strict=True)):
        columns = np.arange(len(steps)) // format.block
        design = np.where(columns[:, None] == np.arange(format.blocks(len(steps))), steps[:, None], 0)
        exact = np.linalg.lstsq(root @ design, root @ weight, rcond=None)[0]
        assert np.allclose(found[row], exact, rtol=2e-3, atol=1e-4)  # float16


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_every_column_gets_the_code_that_costs_least(format: QuantFormat) -> None:
    given = case(format, rows=3)
    columns = given.weight.shape[1]
    found = descend(given.weight, given.steps, given.grid, given.objective, format).numpy()
    step, zero = (expand_blocks(part, format, columns).double().numpy() for part in given.grid)
    for row, weight in enumerate(given.weight.double().numpy()):
        steps = given.steps[row].double().numpy()
        for k in range(columns):
            tried = np.tile(steps, (1 << format.bits, 1))
            tried[:, k] = np.arange(1 << format.bits) - zero[row, k]
            differences = weight - tried * step[row]
            costs = np.einsum("ck,kl,cl->c", differences, given.hessian, differences)
            chosen = int(found[row, k] + zero[row, k])
            assert costs[chosen] <= costs.min() * (1 + 1e-4)  # ties may fall either way in float32
            steps[k] = found[row, k]


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_no_row_gets_worse_in_any_round(format: QuantFormat) -> None:
    given = case(format, rows=16)
    columns = given.weight.shape[1]
    codes, grid, before = given.steps + expand_blocks(given.grid.zero, format, columns), given.grid, None
    for rounds in range(4):
        found, scaled = refine(given.weight, codes, grid, given.objective, format, rounds)
        step, zero = (expand_blocks(part, format, columns) for part in scaled)
        cost = given.objective.cost(given.weight - (found - zero) * step)
        assert before is None or bool((cost <= before).all())
        assert found.min() >= 0
        assert found.max() < 1 << format.bits
        before = cost


def test_rows_are_refined_alike_in_any_grouping(monkeypatch: pytest.MonkeyPatch) -> None:
    format = QuantFormat(4, 32)
    given = case(format, rows=12)
    codes = given.steps + expand_blocks(given.grid.zero, format, given.weight.shape[1])
    together = refine(given.weight, codes, given.grid, given.objective, format)
    monkeypatch.setattr("qvl_export.quant.gptq.refine.WEIGHTS_AT_ONCE", 5 * given.weight.shape[1])
    apart = refine(given.weight, codes, given.grid, given.objective, format)
    assert torch.equal(together[0], apart[0])
    assert torch.allclose(together[1].scale, apart[1].scale, rtol=1e-3)


def test_gptq_loses_clearly_less_refined() -> None:
    weight, hessian = problem(64, 256, seed=5)
    format, h = QuantFormat(4, 32), torch.from_numpy(hessian)
    plain, refined = (output_error(weight, gptq(weight, hessian, format, rounds=rounds), h) for rounds in (0, 1))
    assert refined < 0.95 * plain


def test_blocks_of_zeros_keep_their_scales() -> None:
    format = QuantFormat(4, 32)
    weight, hessian = problem(4, 64, seed=1)
    weight[:, :32] = 0
    grid = BlockGrid(torch.full((4, 2), 0.25), torch.full((4, 2), 8.0))
    steps = torch.cat((torch.zeros(4, 32), torch.ones(4, 32)), dim=1)
    found = fit_scales(torch.from_numpy(weight), steps, grid.scale, Objective(torch.from_numpy(hessian), DAMP), format)
    assert torch.equal(found[:, 0], grid.scale[:, 0])
    assert not torch.equal(found[:, 1], grid.scale[:, 1])


def test_without_active_inputs_all_errors_count_alike() -> None:
    weight, _ = problem(4, 64, seed=2)
    format = QuantFormat(4, 32)
    found, nearest = gptq(weight, np.zeros((64, 64), np.float32), format), round_to_nearest(weight, format)
    ours, plain = (np.square(weight - tensor.dequantize()).sum() for tensor in (found, nearest))
    assert ours <= plain
