"""The cache of image features is bounded in bytes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from qvl_runtime.answers.feature_cache import CachedEncoder, FeatureCache
from qvl_runtime.positions import Grid
from tests.runtime.test_preprocess import GEOMETRY


def test_the_feature_cache_is_bounded() -> None:
    cache, item = FeatureCache(10_000), np.zeros(1000, np.float32)
    for index in range(9):
        cache.put(bytes([index]), item + index)
    assert [index for index in range(9) if cache.get(bytes([index])) is not None] == [7, 8]
    cache.get(b"\7")
    cache.put(b"x", item)
    assert cache.get(b"\7") is not None and cache.get(b"\x08") is None
    for _ in range(20):  # the same key again adds nothing
        cache.put(b"x", item)
    assert cache.get(b"\7") is not None
    cache.put(b"huge", np.zeros(5000, np.float32))  # larger than the bound: kept alone, for its own prompt
    assert cache.get(b"huge") is not None and cache.get(b"x") is None
    cache.put(b"y", item)
    assert cache.get(b"huge") is None


def test_an_image_is_encoded_once_until_the_cache_is_cleared() -> None:
    class Engine:
        """Gives every call its number as features."""

        calls = 0

        def encode(self, pixel_values: np.ndarray, grid: Grid, cells: None) -> np.ndarray:
            self.calls += 1
            return np.full((1, 2, 4), self.calls, np.float32)

    def placed(key: bytes) -> Any:
        patches = SimpleNamespace(pixel_values=np.zeros((1, 4, 8), np.float32), grid=Grid(1, 2, 2))
        return SimpleNamespace(key=key, kept=None, patches=lambda image: patches)

    engine: Any = Engine()
    encoder = CachedEncoder(engine, GEOMETRY, FeatureCache(10_000))
    assert [encoder(placed(key))[0, 0, 0] for key in (b"a", b"b", b"a", b"b")] == [1, 2, 1, 2]
    encoder.clear()
    assert encoder(placed(b"a"))[0, 0, 0] == 3
