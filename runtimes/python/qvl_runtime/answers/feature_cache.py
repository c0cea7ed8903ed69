"""Caches image features, so that a second question about the same page does not run the vision tower again."""

from __future__ import annotations

import threading
from collections import OrderedDict

from ..common.arrays import Floats
from ..manifest import ImageGeometry
from ..prompts.prompt import PlacedMedia
from ..sessions.engine import Engine
from .encode import encode


class FeatureCache:
    """An LRU cache of image features, bounded in bytes; several threads may use it."""

    def __init__(self, limit: int) -> None:
        self._limit, self._size, self._lock = limit, 0, threading.Lock()
        self._items: OrderedDict[bytes, Floats] = OrderedDict()
        self.hits = self.misses = 0

    def clear(self) -> None:
        with self._lock:
            self._items.clear()
            self._size = 0

    def get(self, key: bytes) -> Floats | None:
        with self._lock:
            found = self._items.get(key)
            if found is not None:
                self._items.move_to_end(key)
            self.hits, self.misses = self.hits + (found is not None), self.misses + (found is None)
            return found

    def put(self, key: bytes, features: Floats) -> None:
        with self._lock:
            replaced = self._items.pop(key, None)
            self._items[key] = features
            self._size += features.nbytes - (0 if replaced is None else replaced.nbytes)
            while self._size > self._limit and len(self._items) > 1:
                self._size -= self._items.popitem(last=False)[1].nbytes


class CachedEncoder:
    """Encodes placed images with an engine, through a cache; the caller must hold the decoder's lock."""

    def __init__(self, engine: Engine, image: ImageGeometry, cache: FeatureCache) -> None:
        self._engine, self._image, self.cache = engine, image, cache

    def __call__(self, placed: PlacedMedia) -> Floats:
        """Returns the features [1 + D, tokens, hidden] of the image and of D DeepStack layers."""
        if (features := self.cache.get(placed.key)) is None:
            features = encode(self._engine.encode, placed, self._image)
            self.cache.put(placed.key, features)
        return features

    def clear(self) -> None:
        """Empties the cache."""
        self.cache.clear()
