"""The rounding of inputs, and the error of quantized outputs, against loops and arithmetic in float64."""

from __future__ import annotations

import numpy as np
import pytest

from qvl_export.qtensor import QTensor, QuantFormat
from qvl_export.quant.output_error import relative_noise, round_per_tensor, round_per_token, round_static, sqnr
from qvl_export.quant.statistics import Statistics

X = np.random.default_rng(0).standard_normal((6, 16)).astype(np.float32)


def test_a_token_is_rounded_in_steps_of_its_own() -> None:
    for token, rounded in zip(X, round_per_token(X), strict=True):
        step = float(np.abs(token).max()) / 127
        assert np.allclose(rounded, [round(float(value) / step) * step for value in token], atol=1e-5)
    assert not round_per_token(np.zeros((1, 4), np.float32)).any()


@pytest.mark.parametrize("x", [X, np.abs(X), -np.abs(X)], ids=["both", "positive", "negative"])
def test_an_image_is_rounded_in_255_steps_that_hold_zero(x: np.ndarray) -> None:
    rounded = round_per_tensor(x, float(np.abs(x).max()))
    step = (max(float(x.max()), 0) - min(float(x.min()), 0)) / 255
    assert np.abs(rounded - x).max() <= step * 0.51
    assert np.allclose(rounded / step, np.rint(rounded / step), atol=1e-2)
    coarser = round_per_tensor(x, 4 * float(np.abs(x).max()))
    assert np.abs(coarser - x).max() > np.abs(rounded - x).max()


def test_a_static_scale_clips() -> None:
    assert round_static(np.array([0.26, -0.1, 100.0, -100.0], np.float32), 0.5).tolist() == [0.5, 0, 63.5, -64]


def test_noise_is_relative_to_the_signal() -> None:
    weight = np.eye(16, dtype=np.float32) * 4
    codes = np.full((16, 16), 8, np.uint8)
    codes[np.arange(16), np.arange(16)] = 11  # three steps instead of four
    tensor = QTensor(QuantFormat(4, 16), codes, np.ones((16, 1), np.float16))
    statistics = Statistics(np.abs(X).max(axis=0), X, None)
    assert relative_noise(weight, tensor, statistics) == pytest.approx(1 / 16, rel=1e-5)
    assert sqnr(weight, tensor, statistics) == pytest.approx(20 * np.log10(4), rel=1e-5)
    assert sqnr(tensor.dequantize(), tensor, statistics) == pytest.approx(300)
