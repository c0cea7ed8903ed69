"""Compensated codes of integer products: against a naive GPTQ, with bounded pairs, never worse than the nearest."""

from __future__ import annotations

import numpy as np
import pytest

from qvl_export.qtensor import QTensor
from qvl_export.quant.calibration import layerwise
from qvl_export.quant.gptq import compensate as module
from qvl_export.quant.gptq.compensate import compensate
from qvl_export.quant.output_error import sqnr
from qvl_export.quant.schemes import Options, find
from qvl_export.quant.statistics import Statistics

ROWS = 24
Floats = np.ndarray


def alike(count: int, columns: int, seed: int) -> Statistics:
    """Tokens of few directions and a little noise, as hidden states are."""
    draw, shared = np.random.default_rng(seed), np.random.default_rng(1)
    tokens = draw.standard_normal((count, 6)) @ shared.standard_normal((6, columns))
    tokens = (tokens + 0.2 * draw.standard_normal((count, columns))).astype(np.float32)
    return Statistics(np.abs(tokens).max(axis=0), tokens, None)


def rounded(columns: int, cpu: str = "any") -> tuple[Floats, QTensor]:
    weight = np.random.default_rng(0).standard_normal((ROWS, columns)).astype(np.float32)
    return weight, find("int8", Options(cpu=cpu)).quantize(weight, None)


def naive(weight: Floats, steps: Floats, tokens: Floats) -> Floats:
    """GPTQ in float64 with an inverse that is updated column by column, for pairs whose sum is at most 128."""
    x, matrix = tokens.astype(np.float64), weight.astype(np.float64)
    count, columns = x.shape
    share = count / (count + columns)
    hessian = share * x.T @ x + (1 - share) * np.diag(np.square(x).sum(axis=0))
    inverse = np.linalg.inv(hessian + 0.01 * np.diag(hessian).mean() * np.eye(columns))
    codes = np.zeros_like(matrix)
    for k in np.argsort(-np.diag(hessian), kind="stable"):
        other = codes[:, k ^ 1] if k ^ 1 < columns else np.zeros(len(matrix))
        low, high = -128 - np.minimum(other, 0), 128 - np.maximum(other, 0)
        codes[:, k] = np.clip(np.clip(np.rint(matrix[:, k] / steps), -127, 127), low, high)
        error = (matrix[:, k] - codes[:, k] * steps) / inverse[k, k]
        matrix -= error[:, None] * inverse[k]
        inverse = inverse - np.outer(inverse[:, k], inverse[k]) / inverse[k, k]
        inverse[k, k] = 1  # decided: not used again
    return codes


@pytest.mark.parametrize(("columns", "count"), [(32, 200), (33, 200), (64, 20)])
def test_codes_are_those_of_a_naive_gptq(columns: int, count: int) -> None:
    weight, nearest = rounded(columns)
    seen = alike(count, columns, 2)
    found = compensate(weight, nearest, seen.tokens).codes.astype(int) - 128
    expected = naive(weight, nearest.scales[:, 0], seen.tokens)
    assert np.abs(found - expected).max() <= 1 and (found == expected).mean() > 0.98, "ties may fall either way"


@pytest.mark.parametrize("cpu", ["any", "vnni"])
@pytest.mark.parametrize(("columns", "count", "block"), [(96, 512, 512), (97, 512, 32), (200, 100, 64)])
def test_the_error_is_smaller_on_other_tokens_too(
    cpu: str, columns: int, count: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with fewer tokens than columns, and in blocks; of the weights alone, before inputs are rounded."""
    monkeypatch.setattr(module, "BLOCK", block)
    weight, nearest = rounded(columns, cpu)
    found, unseen = compensate(weight, nearest, alike(count, columns, 2).tokens), alike(2000, columns, 3).tokens
    noise = [np.square(unseen @ (tensor.dequantize() - weight).T).sum() for tensor in (found, nearest)]
    assert noise[0] < 0.7 * noise[1]
    assert np.array_equal(found.scales, nearest.scales) and found.format == nearest.format


@pytest.mark.parametrize("columns", [1, 2, 63, 130])
def test_pairs_stay_within_sixteen_bits(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all codes are at the limit, and compensation would go beyond it."""
    monkeypatch.setattr(module, "BLOCK", 32)
    draw = np.random.default_rng(0)
    weight = (draw.choice([-1, 1], (ROWS, 1)) * draw.uniform(0.97, 1, (ROWS, columns))).astype(np.float32)
    nearest = find("int8", Options()).quantize(weight, None)
    codes = compensate(weight, nearest, alike(300, columns, 2).tokens).codes.astype(int) - 128
    pairs = np.pad(codes, ((0, 0), (0, columns % 2))).reshape(ROWS, -1, 2)
    assert np.abs(pairs.sum(axis=-1)).max() <= 128 and np.abs(codes).max() <= 127


@pytest.mark.parametrize("tokens", [np.zeros((50, 40)), np.eye(40)], ids=["zeros", "one channel each"])
def test_inputs_that_say_nothing_change_nothing(tokens: Floats) -> None:
    weight, nearest = rounded(40)
    seen = Statistics(np.abs(tokens).max(axis=0), tokens.astype(np.float32), None)
    assert np.array_equal(compensate(weight, nearest, seen.tokens).codes, nearest.codes)


def test_what_would_be_worse_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, nearest = rounded(40)
    seen = alike(100, 40, 2)
    level = sqnr(weight, nearest, seen)
    better, reached = layerwise._compensated(weight, nearest, seen, level)
    assert reached == sqnr(weight, better, seen) > level
    monkeypatch.setattr(module, "_sweep", lambda matrix, *_: matrix * 0)
    assert layerwise._compensated(weight, nearest, seen, level) == (nearest, level)
