"""L3: GPTQ against a naive float64 oracle, and round-to-nearest against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qvl_export.errors import ExportError
from qvl_export.qtensor import QTensor, QuantFormat
from qvl_export.quant.gptq.solver import gptq, output_error, round_to_nearest

FORMATS = [
    QuantFormat(bits, block, asymmetric) for bits in (4, 8) for block in (16, 32, 128) for asymmetric in (False, True)
]


def problem(rows: int, columns: int, seed: int, samples: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Weights, and the Hessian of correlated inputs with a few loud channels."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((columns, columns)) / columns**0.5 + np.eye(columns)
    loud = np.exp(rng.standard_normal(columns))
    inputs = (rng.standard_normal((samples, columns)) @ mixing) * loud
    return rng.standard_normal((rows, columns)).astype(np.float32), (inputs.T @ inputs).astype(np.float32)


def naive_gptq(weight: np.ndarray, hessian: np.ndarray, scaled: QTensor, damp_percent: float) -> np.ndarray:
    """Column by column in float64, under the scales of `scaled`: the optimal brain surgeon update with the inverse
    recomputed at every step."""
    format = scaled.format
    columns = weight.shape[1]
    h = hessian.astype(np.float64) + damp_percent * np.mean(np.diag(hessian)) * np.eye(columns)
    remaining = list(np.argsort(-np.diag(hessian), kind="stable"))
    current, restored = weight.astype(np.float64), np.zeros(weight.shape)
    scales = np.repeat(scaled.scales.astype(np.float64), format.block, axis=1)[:, :columns]
    zeros = scaled.zeros if scaled.zeros is not None else np.full(scaled.scales.shape, format.default_zero_point)
    zeros = np.repeat(zeros.astype(np.float64), format.block, axis=1)[:, :columns]
    while remaining:
        k = remaining[0]
        inverse = np.linalg.inv(h[np.ix_(remaining, remaining)])
        codes = np.clip(np.round(current[:, k] / scales[:, k]) + zeros[:, k], 0, (1 << format.bits) - 1)
        restored[:, k] = (codes - zeros[:, k]) * scales[:, k]
        error = (current[:, k] - restored[:, k]) / inverse[0, 0]
        current[:, remaining] -= error[:, None] * inverse[0]
        remaining = remaining[1:]
    return restored


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_gptq_equals_the_naive_oracle(format: QuantFormat) -> None:
    weight, hessian = problem(24, 96, seed=format.block)
    ours = gptq(weight, hessian, format, rounds=0)
    theirs = naive_gptq(weight, hessian, ours, 0.01)
    h = hessian.astype(np.float64)
    naive_error = float((((weight - theirs) @ h) * (weight - theirs)).sum())
    assert output_error(weight, ours, torch.from_numpy(hessian)) <= naive_error * 1.01
    assert np.mean(np.abs(ours.dequantize() - theirs) < 1e-4) > 0.98  # ties may fall either way in float32


@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.parametrize("shape", [(8, 128), (16, 100), (3, 40)], ids=str)
def test_never_worse_than_round_to_nearest(format: QuantFormat, shape: tuple[int, int]) -> None:
    weight, hessian = problem(*shape, seed=shape[1], samples=20)  # fewer samples than columns: singular
    h = torch.from_numpy(hessian)
    quantized = gptq(weight, hessian, format)
    nearest = round_to_nearest(weight, format, np.diag(hessian).copy())
    assert output_error(weight, quantized, h) <= output_error(weight, nearest, h)


def test_gptq_gains_clearly_over_round_to_nearest() -> None:
    weight, hessian = problem(64, 256, seed=5)
    format, h = QuantFormat(4, 32), torch.from_numpy(hessian)
    assert output_error(weight, gptq(weight, hessian, format), h) < 0.7 * output_error(
        weight, round_to_nearest(weight, format), h
    )


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(FORMATS), st.integers(1, 9), st.integers(1, 200), st.integers(0, 99))
def test_round_to_nearest_picks_the_nearest_code(format: QuantFormat, rows: int, columns: int, seed: int) -> None:
    weight = np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)
    quantized = round_to_nearest(weight, format)
    scales = np.repeat(quantized.scales.astype(np.float32), format.block, 1)[:, :columns]
    error = np.abs(quantized.dequantize() - weight)
    for step in (-1, 1):
        codes = quantized.codes.astype(int) + step
        possible = (codes >= 0) & (codes < 1 << format.bits)
        other = np.abs(quantized.dequantize() + step * scales - weight)
        assert (error[possible] <= other[possible] + 1e-5).all()


def test_clip_search_never_loses_to_the_full_range() -> None:
    rng = np.random.default_rng(1)
    weight = rng.standard_t(2, (16, 256)).astype(np.float32)
    format = QuantFormat(4, 64)
    blocks = weight.reshape(16, 4, 64)
    scale = (np.abs(blocks).max(-1, keepdims=True) * 2 / 15).astype(np.float16).astype(np.float32)
    plain = (np.clip(np.round(blocks / scale), -8, 7) * scale).reshape(16, 256)
    searched = round_to_nearest(weight, format).dequantize()
    assert ((weight - searched) ** 2).sum() <= ((weight - plain) ** 2).sum()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    weight, hessian = problem(4, 32, seed=0)
    broken = weight.copy()
    broken[1, 3] = bad
    with pytest.raises(ExportError, match="weights are not finite"):
        gptq(broken, hessian, QuantFormat(4, 32))
    hessian[2, 2] = bad
    with pytest.raises(ExportError, match="activation statistics are not finite"):
        gptq(weight, hessian, QuantFormat(4, 32))


def test_inputs_that_never_fire_keep_their_weights() -> None:
    weight, hessian = problem(8, 64, seed=3)
    hessian[5], hessian[:, 5] = 0, 0
    quantized = gptq(weight, hessian, QuantFormat(8, 64))
    assert np.abs(quantized.dequantize()[:, 5] - weight[:, 5]).max() < 0.05


@pytest.mark.parametrize("loudness", [1e-30, 1e-9, 1e-4, 1e6, 1e30])
def test_how_loud_inputs_are_changes_nothing(loudness: float) -> None:
    weight, hessian = problem(16, 96, seed=4)
    hessian[7], hessian[:, 7] = 0, 0  # a column that never fires has no loudness of its own
    format = QuantFormat(4, 32)
    plain, scaled = (gptq(weight, h, format) for h in (hessian, hessian * np.float32(loudness)))
    assert np.mean(plain.codes == scaled.codes) > 0.98  # ties may fall either way in float32
    h = torch.from_numpy(hessian)
    assert output_error(weight, scaled, h) == pytest.approx(output_error(weight, plain, h), rel=0.02)


def test_all_zero_weights() -> None:
    quantized = round_to_nearest(np.zeros((4, 32), np.float32), QuantFormat(4, 32))
    assert not quantized.dequantize().any()
