"""The cache of image features is bounded in bytes."""

from __future__ import annotations

import numpy as np

from qvl_runtime.answers.feature_cache import FeatureCache


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
