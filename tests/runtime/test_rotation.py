"""The rotation is orthogonal, spreads every channel, and follows from its seed."""

from __future__ import annotations

import numpy as np
import pytest

from qvl_runtime.rotation import Rotation, hadamard

SIZES = [1, 16, 24, 96, 160, 128, 1536, 3584, 509]


RNG = np.random.default_rng(0)


@pytest.mark.parametrize("size", SIZES)
def test_it_is_orthogonal_and_spreads_every_channel(size: int) -> None:
    rotation = Rotation(size, 0)
    matrix = rotation.apply(np.eye(size, dtype=np.float32))
    assert np.abs(matrix @ matrix.T - np.eye(size)).max() < 1e-5
    assert np.abs(matrix).max() <= np.sqrt(2 / size) + 1e-6
    x = RNG.standard_normal((3, 2 * size)).astype(np.float32)
    expected = np.concatenate([x[:, :size] @ matrix, x[:, size:] @ matrix], axis=1)
    assert np.abs(rotation.apply(x) - expected).max() < 1e-4
    assert np.abs(rotation.undo(rotation.apply(x)) - x).max() < 1e-4


def test_hadamard_is_sylvesters_and_the_seed_decides() -> None:
    index = np.arange(64)
    assert np.allclose(hadamard(64) * 8, (-1.0) ** np.bitwise_count(index[:, None] & index))
    one = np.ones(256, np.float32)
    assert np.array_equal(Rotation(256, 1).apply(one), Rotation(256, 1).apply(one))
    assert not np.allclose(Rotation(256, 1).apply(one), Rotation(256, 2).apply(one))
    assert Rotation(8, 0).signs.tolist() == [-1, 1, 1, 1, -1, -1, -1, -1]  # older bundles stay readable
