"""The graphs of a bundle as TensorRT engines, with one KV cache on the GPU that they update in place."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...common.arrays import Floats, Ints
from ...errors import EngineError
from ...manifest import DECODE, Manifest
from ...positions import Grid
from ..engine import LlmInputs, end_calls
from ..feeds import llm_feeds, vision_feeds
from .cuda_driver import Buffer, Cuda
from .engine import MakeContext, TrtGraph

ITEM_BYTES = {"float": 4, "float16": 2}


@dataclass(frozen=True)
class Library:
    """A library's module and name, its factory of execution contexts, and whether to record decoding as CUDA graphs."""

    trt: Any
    name: str
    make_context: MakeContext
    record: bool


class TrtEngine:
    """See `sessions.engine.Engine`; not thread-safe. Raises BundleError, InstallError and EngineError."""

    def __init__(self, bundle: Path, manifest: Manifest, library: Library) -> None:
        self._cuda = Cuda()
        self._manifest, self._library = manifest, library
        self._graphs: dict[str, TrtGraph] = {}
        self._cache: dict[str, Buffer] = {}
        try:
            for name, entry in manifest.graphs.items():
                self._graphs[name] = TrtGraph(
                    bundle, entry, self._cuda, library.trt, library.name, library.make_context
                )
        except Exception:
            TrtEngine.close(self)
            raise

    def encode(self, pixel_values: Floats, grid: Grid, cells: Ints | None = None) -> Floats:
        """Patches [frames, patches, dim] → features [1 + D, tokens, H] of the image and of D DeepStack layers.

        Raises PromptError for more patches than the engine was built for.
        """
        feeds = {"pixel_values": pixel_values, **vision_feeds(self._manifest.image, grid, cells)}
        return np.stack(self._graphs["vision"].call(feeds))

    def forward(self, inputs: LlmInputs) -> Floats:
        """Returns logits [K, vocab]; the cache then holds past + S tokens."""
        graph = self._graphs[DECODE if inputs.answer and DECODE in self._graphs else "llm"]
        pieces = _split_call(inputs, graph.max_size("sequence"), graph.max_size("wanted"))
        return np.concatenate([self._run(graph, piece)[: len(piece.wanted)] for piece in pieces])

    def _run(self, graph: TrtGraph, inputs: LlmInputs) -> Floats:
        """Runs one call; engines return logits for at least one token: for the first if none are requested."""
        request = inputs if len(inputs.wanted) else replace(inputs, wanted=np.zeros(1, np.int64))
        feeds = llm_feeds(self._manifest, request, self._manifest.llm.max_length)
        logits = graph.call(feeds, self._cache_buffers(), self._library.record and len(inputs.ids) == 1)[0]
        return np.asarray(logits[0])

    def _cache_buffers(self) -> dict[str, Buffer]:
        """Returns the cache buffers by past and present names; initially zeros, since masked values must be finite."""
        if not self._cache:
            tensors = self._manifest.cache_tensors()
            try:
                for tensor in tensors:
                    elements = math.prod(tensor.dims(self._manifest.llm.max_length))
                    buffer = self._cuda.allocate(ITEM_BYTES[tensor.dtype] * elements)
                    self._cache[tensor.past] = self._cache[tensor.present] = buffer
                    self._cuda.clear(buffer)
            except EngineError:
                self.clear()  # frees the buffers that fitted
                raise
        return self._cache

    def snapshot(self) -> None:
        """Does nothing: keys and values, which are all that engines keep, continue after any token."""

    def resumable(self, past: int) -> int:
        """Returns `past`, see `snapshot`."""
        return past

    def clear(self) -> None:
        """Frees the KV cache; the next call starts with an empty one."""
        for buffer in self._cache.values():
            buffer.free()
        self._cache.clear()

    def close(self) -> None:
        """Frees everything; any later call raises EngineError."""
        self.clear()
        for graph in self._graphs.values():
            graph.close()
        self._cuda.close()
        end_calls(self)


def _split_call(inputs: LlmInputs, most_tokens: int, most_wanted: int) -> Iterator[LlmInputs]:
    """Splits a call if it has more tokens or requests more logits than the engine takes at once."""
    start, total = 0, len(inputs.ids)
    while start < total:
        remaining = inputs.wanted[inputs.wanted >= start]
        end = min(total, start + most_tokens, *remaining[most_wanted : most_wanted + 1].tolist())
        in_range = (inputs.feature_indices >= start) & (inputs.feature_indices < end)
        yield LlmInputs(
            inputs.ids[start:end],
            inputs.positions[:, start:end],
            inputs.features[:, in_range],
            inputs.feature_indices[in_range] - start,
            remaining[remaining < end] - start,
            inputs.past + start,
            inputs.answer,
            inputs.ntk_alpha,
        )
        start = end
