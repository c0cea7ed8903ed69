"""Nibbles pack and unpack, low nibble first."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from qvl_runtime.packing import pack_nibbles, unpack_nibbles


@given(st.integers(1, 5), st.integers(1, 33), st.integers(0, 99))
def test_round_trip(rows: int, count: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 16, (rows, count), dtype=np.uint8)
    packed = pack_nibbles(codes)
    assert packed.shape == (rows, -(-count // 2))
    assert np.array_equal(unpack_nibbles(packed, count), codes)


def test_the_earlier_code_is_in_the_low_nibble() -> None:
    assert pack_nibbles(np.array([[1, 2, 3]], np.uint8)).tolist() == [[0x21, 0x03]]
