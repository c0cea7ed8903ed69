"""Detects by a test product whether this processor's products of unsigned and signed bytes saturate.

x86 without VNNI adds pairs of such products in 16 bits. ONNX Runtime can avoid this (`session.x64quantprecision`), but
with VNNI or AMX that runs at a tenth of the speed, so it is enabled only if needed.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

PROBE = Path(__file__).with_suffix(".onnx")
"""`MatMulInteger` of `a` uint8 [1, K] and a matrix of 127s [K, 16]; written by `tests/runtime/test_saturation.py`."""
DEPTH = 64


@lru_cache(maxsize=1)
def saturates() -> bool:
    """Whether a dot product of DEPTH terms 255 · 127 is computed incorrectly."""
    from .library import ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(PROBE), options, providers=["CPUExecutionProvider"])
    (product,) = session.run(None, {"a": np.full((1, DEPTH), 255, np.uint8)})
    return bool((product != DEPTH * 255 * 127).any())
