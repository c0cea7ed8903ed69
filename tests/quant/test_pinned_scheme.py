"""A scheme keeps the format that was measured."""

from __future__ import annotations

import numpy as np

from qvl_export.qtensor import Activations, QuantFormat
from qvl_export.quant.mixed_precision.pinned_scheme import PinnedScheme
from qvl_export.quant.schemes import Options, find
from qvl_export.quant.statistics import Statistics

WEIGHT = np.random.default_rng(0).standard_normal((4, 32)).astype(np.float32)
STATISTICS = Statistics(np.ones(32, np.float32), np.ones((1, 32), np.float32), None)


def test_inputs_are_rounded_as_they_were_measured() -> None:
    scheme = find("int8", Options())
    own = scheme.format(32)
    for measured in (own, own.with_inputs_per_tensor()):
        tensor = PinnedScheme(scheme, measured).quantize(WEIGHT, STATISTICS)
        assert tensor.format == measured
        assert np.array_equal(tensor.dequantize(), scheme.quantize(WEIGHT, STATISTICS).dequantize())


def test_a_linear_measured_with_float_inputs_keeps_its_weight_alone() -> None:
    pinned = PinnedScheme(find("int8", Options()), QuantFormat(8, 32))
    tensor = pinned.quantize(WEIGHT, STATISTICS)
    assert tensor.format == QuantFormat(8, 32) and tensor.format.activations is Activations.FLOAT
    assert np.abs(tensor.dequantize() - WEIGHT).max() <= np.abs(WEIGHT).max() / 127
    assert pinned.format(32).integer and not pinned.hessian
