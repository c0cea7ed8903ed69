"""SmoothQuant's scales: they undo outlier channels and never make an error worse."""

from __future__ import annotations

import numpy as np

from qvl_export.graph.scale_folds import Fold
from qvl_export.quant.calibration.smoothquant import best_scale
from qvl_export.quant.output_error import relative_noise, sqnr
from qvl_export.quant.schemes import Options, find
from tests.quant.test_int8 import statistics

RNG = np.random.default_rng(0)


def test_smoothing_undoes_outlier_channels() -> None:
    """A few channels a thousand times the others: rounding tokens loses the rest, unless the weights take the scale."""
    tokens = RNG.standard_normal((256, 64)).astype(np.float32)
    weight = RNG.standard_normal((48, 64)).astype(np.float32)
    tokens[:, [3, 40]] *= 1000
    weight[:, [3, 40]] /= 1000
    scheme, fold = find("int8", Options()), Fold(("l",), "norm", np.arange(64))
    before = statistics(tokens)
    scale = best_scale(fold, {"l": weight}, before, scheme)
    after = before.divided(scale)
    plain = sqnr(weight, scheme.quantize(weight, before), before)
    smooth = sqnr(weight * scale, scheme.quantize(weight * scale, after), after)
    assert plain < 5
    assert smooth > 30


def test_smoothing_never_makes_it_worse() -> None:
    tokens, weight = RNG.standard_normal((64, 40)).astype(np.float32), RNG.standard_normal((8, 40)).astype(np.float32)
    scheme, before = find("int8", Options()), statistics(tokens)
    scale = best_scale(Fold(("l",), "norm", np.arange(40)), {"l": weight}, before, scheme)
    after = before.divided(scale)
    noise = relative_noise(weight * scale, scheme.quantize(weight * scale, after), after)
    assert noise <= relative_noise(weight, scheme.quantize(weight, before), before)


def test_smoothing_leaves_what_the_linears_do_not_see() -> None:
    """Queries and keys come out of the same linear as the values before a projection, and go elsewhere."""
    tokens, weight = RNG.standard_normal((64, 40)).astype(np.float32), RNG.standard_normal((8, 40)).astype(np.float32)
    tokens[:, 3] *= 100
    fold = Fold(("proj",), "qkv", np.arange(40) + 80)
    scale = best_scale(fold, {"proj": weight}, statistics(tokens), find("int8", Options()))
    assert scale[83] > 5
    assert np.array_equal(scale[:80], np.ones(80))
