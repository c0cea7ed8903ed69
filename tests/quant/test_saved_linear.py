"""A quantized linear is read as it was saved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qvl_export.qtensor import Activations, QTensor, QuantFormat
from qvl_export.quant.calibration.saved_linear import SavedLinear

FORMATS = [
    QuantFormat(4, 16),
    QuantFormat(4, 16, asymmetric=True),
    QuantFormat(8, 32, activations=Activations.INT8_STATIC),
]


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_it_is_read_as_it_was_saved(format: QuantFormat, tmp_path: Path) -> None:
    rng, blocks = np.random.default_rng(0), (3, format.blocks(32))
    step = 0.25 if format.activations is Activations.INT8_STATIC else None
    zeros = rng.integers(0, 16, blocks, dtype=np.uint8) if format.asymmetric else None
    codes, scales = rng.integers(0, 16, (3, 32), dtype=np.uint8), rng.random(blocks).astype(format.scale_type)
    linear = SavedLinear("l", tmp_path / "l.npz", format, 3, 32)
    linear.save(QTensor(format, codes, scales, zeros, input_scale=step))
    found = linear.read()
    assert (found.format, found.input_scale, found.permutation) == (linear.format(), step, None)
    assert np.array_equal(found.codes, codes) and np.array_equal(found.scales, scales)
    assert (found.zeros is None) == (zeros is None) and (zeros is None or np.array_equal(found.zeros, zeros))
    assert [path.name for path in tmp_path.iterdir()] == ["l.npz"]
