"""Packs 4-bit codes two per byte, the earlier one in the low nibble (MatMulNBits, GatherBlockQuantized)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.uint8]


def pack_nibbles(codes: Codes) -> Codes:
    """[…, n] codes below 16 → […, ceil(n / 2)] bytes; rows of odd length are padded with a zero nibble."""
    if codes.shape[-1] % 2:
        codes = np.concatenate((codes, np.zeros_like(codes[..., :1])), axis=-1)
    return np.asarray(codes[..., 0::2] | (codes[..., 1::2] << 4), dtype=np.uint8)


def unpack_nibbles(packed: Codes, count: int) -> Codes:
    """[…, bytes] → […, count] codes."""
    pairs = np.stack((packed & 15, packed >> 4), axis=-1)
    return np.ascontiguousarray(pairs.reshape(*packed.shape[:-1], -1)[..., :count])
