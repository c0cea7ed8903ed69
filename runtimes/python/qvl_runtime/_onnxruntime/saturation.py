"""Detects by a test product whether this processor's products of unsigned and signed bytes saturate.

x86 without VNNI adds pairs of such products in 16 bits. The codes of `manifest.EXACT_EVERYWHERE` are small enough for
that. For others ONNX Runtime can multiply unsigned bytes (`session.x64quantprecision`), which is slower everywhere and
enabled only if needed.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from ..manifest import ANY, EXACT_EVERYWHERE, Manifest

PROBE = Path(__file__).with_suffix(".onnx")
"""`MatMulInteger` of `a` uint8 [1, K] and a matrix of 127s [K, 16]; written by `tests/runtime/test_saturation.py`."""
DEPTH = 64
WIDE = "int8 × "
"""How the manifest begins the formats of linears that multiply 8-bit codes by bytes."""


@lru_cache(maxsize=1)
def saturates() -> bool:
    """Whether a dot product of DEPTH terms 255 · 127 is computed incorrectly."""
    from .library import ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(PROBE), options, providers=["CPUExecutionProvider"])
    (product,) = session.run(None, {"a": np.full((1, DEPTH), 255, np.uint8)})
    return bool((product != DEPTH * 255 * 127).any())


def may_saturate(manifest: Manifest) -> bool:
    """Whether byte products of a bundle's weights would saturate on some processors; True if it does not say."""
    return manifest.cpu not in EXACT_EVERYWHERE


def slow_products(manifest: Manifest) -> str:
    """Says that a bundle's byte products are slow on this processor, and what to do; empty if they are not."""
    formats = {format for graph in manifest.graphs.values() for format in graph.linears.values()}
    wide = manifest.target == "cpu" and any(format.startswith(WIDE) for format in formats)
    if not (wide and may_saturate(manifest) and saturates()):
        return ""
    return (
        "the int8 products of this bundle are slow on this processor, which has no VNNI (export the checkpoint with "
        f"--cpu {ANY}, the default)"
    )
