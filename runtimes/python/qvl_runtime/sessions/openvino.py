"""Target `openvino`: the graphs in OpenVINO, with the KV cache as a state of the compiled language model."""

from __future__ import annotations

from copy import copy
from pathlib import Path
from threading import Lock
from typing import Any, Self

import numpy as np

from ..common.arrays import Floats, Ints
from ..errors import EngineError
from ..manifest import DECODE, GraphEntry, ImageGeometry, Manifest
from ..positions import Grid
from . import portable
from ._openvino.compiler import DEVICES, Compiler, library, raising_engine_errors
from ._openvino.stateful import BEAM
from ._openvino.states import States
from .engine import LlmInputs, end_calls
from .feeds import llm_feeds, vision_feeds

__all__ = ["DEVICES", "cache_state", "check", "open"]


def open(bundle: Path, manifest: Manifest, threads: int | None, device: str = "CPU") -> OpenvinoEngine:
    """Compiles the graphs for one of OpenVINO's devices.

    Raises InstallError without OpenVINO, EngineError for a device that is not there or that cannot run the graphs, and
    BundleError if OpenVINO rejects a graph.
    """
    compiler = Compiler(bundle, device, threads)
    return OpenvinoEngine(Vision(manifest.image, compiler, manifest.graphs["vision"]), Llm(manifest, compiler))


def check(bundle: Path, manifest: Manifest) -> None:
    """Raises InstallError if OpenVINO is missing, damaged or too old."""
    library()


def cache_state(past: int, total: int, capacity: int) -> dict[str, np.ndarray]:
    """Returns the causal mask of the new tokens over all, bool [1, 1, total − past, total]."""
    return {"attention_mask": portable.cache_state(past, total, total)["attention_mask"]}


class Vision:
    """The vision graph (not thread-safe)."""

    def __init__(self, image: ImageGeometry, compiler: Compiler, graph: GraphEntry) -> None:
        self._image, self.request = image, compiler.request(graph)
        self._names = [port.name for port in graph.outputs]

    def encode(self, pixel_values: Floats, grid: Grid, cells: Ints | None = None) -> Floats:
        """Patches [frames, patches, dim] → features [1 + D, tokens, H] of the image and of D DeepStack layers."""
        with raising_engine_errors():
            found = self.request.infer({"pixel_values": pixel_values, **vision_feeds(self._image, grid, cells)})
        return np.stack([found[name] for name in self._names])

    def fork(self) -> Self:
        """Returns the same graph for another thread."""
        twin = copy(self)
        twin.request = another(self.request)
        return twin


class Llm:
    """The language graphs with what their layers keep between calls (batch 1; not thread-safe).

    A hybrid bundle's two graphs have a KV cache each; that of the graph which ran last is copied to the other.
    """

    def __init__(self, manifest: Manifest, compiler: Compiler) -> None:
        graphs = [manifest.graphs[name] for name in ("llm", DECODE) if name in manifest.graphs]
        self._manifest = manifest
        self.requests = [compiler.request(graph, manifest) for graph in graphs]
        self._lock = Lock()
        self.clear()

    def clear(self) -> None:
        """Empties the KV cache, and drops all states."""
        for request in self.requests:
            request.reset_state()
        self._latest, self.states = self.requests[0], States(self._manifest)
        self._filled: int | None = 0
        """The number of tokens in the KV cache, or None if a call failed: some layers may then have its tokens."""

    def forward(self, inputs: LlmInputs) -> Floats:
        """Returns logits [K, vocab]; the cache then holds past + S tokens."""
        past, total, request = inputs.past, inputs.past + len(inputs.ids), self.requests[-1 if inputs.answer else 0]
        if self._filled is not None and past > self._filled:
            raise EngineError(f"the cache has {self._filled} tokens, and {past} are to be continued")
        feeds, states = llm_feeds(self._manifest, inputs, total), self.states.after(past)
        with self._lock, raising_engine_errors():
            self._continue(request, past)
            self._latest, self._filled = request, None
            found = request.infer({**feeds, **states, BEAM: np.zeros(1, np.int32)})
        self._filled = total
        self.states.advance(past, states, total, found)
        return np.array(found["logits"][0])

    def _continue(self, request: Any, tokens: int) -> None:
        """Gives a request the first `tokens` of the KV cache alone."""
        if request is not self._latest or tokens != self._filled:
            fill(request, first(self._latest, tokens))

    def fork(self) -> Self:
        """Returns the same graphs with an empty KV cache, for another thread."""
        twin = copy(self)
        twin.requests, twin._lock = [another(request) for request in self.requests], Lock()
        twin.clear()
        return twin

    def adopt(self, other: Self, tokens: int) -> None:
        """See `sessions.engine.Forkable`."""
        with raising_engine_errors():
            with other._lock:  # a request that computes cannot be read
                kept = first(other._latest, tokens)
            with self._lock:
                self.clear()
                fill(self._latest, kept)
                self._filled = tokens

    def snapshot(self) -> None:
        """See `sessions.engine.Engine`."""
        self.states.snapshot()

    def resumable(self, past: int) -> int:
        """See `sessions.engine.Engine`."""
        return self.states.resumable(past)


def another(request: Any) -> Any:
    """Returns a request for the same compiled graph, with states of its own."""
    return request.get_compiled_model().create_infer_request()


def first(request: Any, tokens: int) -> dict[str, np.ndarray]:
    """Returns copies of the first `tokens` of all keys and values that a request keeps; none if `tokens` is 0."""
    if tokens == 0:
        return {}
    return {state.name: state.state.data[:, :, :tokens].copy() for state in request.query_state()}


def fill(request: Any, kept: dict[str, np.ndarray]) -> None:
    """Sets what a request keeps to the result of `first`, of any request of the bundle's graphs."""
    if not kept:
        request.reset_state()
        return
    for state in request.query_state():
        state.state = library().Tensor(kept[state.name])


class OpenvinoEngine:
    """All graphs of a bundle in OpenVINO; see `sessions.engine.Engine` and `Forkable`."""

    def __init__(self, vision: Vision, llm: Llm) -> None:
        self.vision, self.llm, self.encode, self.forward = vision, llm, vision.encode, llm.forward
        self.snapshot, self.resumable = llm.snapshot, llm.resumable

    def fork(self) -> OpenvinoEngine:
        """See `sessions.engine.Forkable`."""
        return OpenvinoEngine(self.vision.fork(), self.llm.fork())

    def adopt(self, other: OpenvinoEngine, tokens: int) -> None:
        """See `sessions.engine.Forkable`."""
        self.llm.adopt(other.llm, tokens)

    def clear(self) -> None:
        """Empties the KV cache."""
        self.llm.clear()

    def close(self) -> None:
        """Frees the compiled graphs; any later call raises EngineError."""
        for part in ("vision", "llm"):
            self.__dict__.pop(part, None)
        end_calls(self)
