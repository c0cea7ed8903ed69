"""Target `cpu`: runs the graphs in ONNX Runtime, with the KV cache bound in place."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from pathlib import Path
from typing import Self

import numpy as np

from .._onnxruntime.library import ort
from .._onnxruntime.mapped_files import maps
from .._onnxruntime.nodes import crashing_attribute
from .._onnxruntime.saturation import may_saturate, saturates, slow_products
from ..bundle import inside
from ..common.arrays import Floats, Ints
from ..common.huge_pages import NewMemory
from ..common.log import log, timed
from ..errors import BundleError, EngineError, InstallError, SlowProductsWarning
from ..manifest import DECODE, ImageGeometry, Manifest
from ..positions import Grid
from ..printable import first_line
from . import cores
from ._bound_inputs import BoundInputs
from .engine import LlmInputs, end_calls
from .feeds import llm_feeds, vision_feeds
from .layer_states import CPU, Device, KvCache, RecurrentStates

SILENT = 4
"""Log severity of sessions (fatal only): errors are raised and reported in one line of ours."""
PAYS_AFTER = 32
"""Steps of answers after which weights are gathered in huge pages: the first page is not held up for a short answer."""
BYTES_TO_UNSIGNED = "QDQS8ToU8Transformer"
"""A pass of ONNX Runtime over Q/DQ pairs, enabled by `session.x64quantprecision`. To a per-axis or blockwise
DequantizeLinear without a zero point it adds a scalar one, which the kernel then rejects. Without the pass such weights
are dequantized and multiplied as floats, which is exact on every processor."""


def open(bundle: Path, manifest: Manifest, threads: int | None, device: Device = CPU) -> CpuEngine:
    """Loads the graphs; raises BundleError if ONNX Runtime rejects one.

    On a CPU the vision graph is loaded in another thread: most of the time goes to pages of new memory, one at a time.

    Warns with SlowProductsWarning about codes that were chosen for another processor.
    """
    if problem := slow_products(manifest):
        warnings.warn(problem, SlowProductsWarning, stacklevel=6)  # the caller of `load`
    saturates()  # before threads ask
    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(open_vision, bundle, manifest, threads, device)
        vision = opening.result() if device is not CPU else None
        llm = CpuLlm(bundle, manifest, threads, device)
        return CpuEngine(vision or opening.result(), llm)


def open_vision(bundle: Path, manifest: Manifest, threads: int | None, device: Device = CPU) -> CpuVision:
    """Loads only the vision graph."""
    return CpuVision(manifest.image, _open_checked(bundle, manifest, "vision", threads, device), device)


def session_options(threads: int | None = None, exact: bool = False) -> ort.SessionOptions:
    """Returns the options of every session, so that everything that runs a bundle's graphs computes the same.

    `exact` says that byte products of the weights are exact on every processor, so that no option has to ensure it.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = min(threads or cores(), cores())  # more threads only slow each other down
    options.log_severity_level = SILENT
    # planned memory, for known shapes or not, is kept even if no value needs it: over twice as much, and no faster
    options.enable_mem_pattern = options.enable_mem_reuse = False
    options.add_session_config_entry("session.force_spinning_stop", "1")  # two sessions share the cores
    options.add_session_config_entry("session.x64quantprecision", str(int(not exact and saturates())))
    return options


def open_session(
    path: Path, options: ort.SessionOptions | None = None, provider: str = CPU.provider
) -> ort.InferenceSession:
    """Opens a session with `options` (default: `session_options()`); ONNX Runtime's exceptions propagate."""
    options = options or session_options()
    with timed(log, "session opened: %s, %s, %d threads", path, provider, options.intra_op_num_threads), maps.change():
        return ort.InferenceSession(str(path), options, providers=[provider], disabled_optimizers=[BYTES_TO_UNSIGNED])


def _check_attributes(path: Path) -> None:
    """Raises BundleError for a model whose attributes would crash ONNX Runtime, instead of making it raise."""
    try:
        attribute = crashing_attribute(path.read_bytes())
    except ValueError as error:
        raise BundleError(f"is not an ONNX model: {error}", where=path, fix="copy or export it again") from error
    except OSError as error:
        raise BundleError(f"cannot be read: {error.strerror}", where=path) from error
    if attribute:
        raise BundleError(f"has an invalid attribute: {attribute}", where=path, fix="export it again")


def _open_checked(
    bundle: Path, manifest: Manifest, name: str, threads: int | None, device: Device
) -> ort.InferenceSession:
    graph = manifest.graphs[name]
    path = inside(bundle, graph.model)
    _check_attributes(path)
    try:
        session = open_session(path, session_options(threads, not may_saturate(manifest)), device.provider)
    except Exception as error:  # ONNX Runtime's exception types share no base class
        raise BundleError(
            f"ONNX Runtime rejects it: {first_line(error)[:300]}",
            where=path,
            fix="check the bundle with `inspect --verify`",
        ) from error
    maps.free_later(bundle)
    if device.provider not in session.get_providers():
        raise InstallError(f"ONNX Runtime could not load its {device.provider}", fix=device.fix)
    ports = [(port.name, port.shape) for port in (*graph.inputs, *graph.outputs)]
    found = [(value.name, value.shape) for value in (*session.get_inputs(), *session.get_outputs())]
    if ports != found[: len(ports)]:  # further outputs cost nothing: they are never requested
        raise BundleError("inputs and outputs differ from the manifest", where=path, fix="export again")
    return session


class _RaisingEngineErrors:
    """Converts ONNX Runtime's exceptions into EngineError."""

    def __enter__(self) -> None: ...

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, MemoryError):  # its types share no base class
            raise EngineError(f"ONNX Runtime failed: {first_line(error)[:300]}") from error


raising_engine_errors = _RaisingEngineErrors()


def cache_state(past: int, total: int, capacity: int) -> dict[str, np.ndarray]:
    """Returns the inputs that tell the graph the fill level of the cache, including the new tokens."""
    return {"seqlens_k": np.array([total - 1], np.int32), "total_sequence_length": np.array(total, np.int32)}


class CpuVision:
    """The vision graph."""

    def __init__(self, image: ImageGeometry, session: ort.InferenceSession, device: Device) -> None:
        self._image, self.session = image, session
        self._run_options = ort.RunOptions()  # the arena does not keep a page's activations for the next
        self._run_options.add_run_config_entry("memory.enable_memory_arena_shrinkage", device.arena)
        self._run_options.log_severity_level = SILENT

    def encode(self, pixel_values: Floats, grid: Grid, cells: Ints | None = None) -> Floats:
        """Patches [frames, patches, dim] → features [1 + D, tokens, H] of the image and of D DeepStack layers."""
        feeds = {"pixel_values": pixel_values, **vision_feeds(self._image, grid, cells)}
        with raising_engine_errors:
            features = self.session.run(None, feeds, self._run_options)  # in the manifest's order
        return np.stack(features)


class CpuLlm:
    """The language graph with what its layers keep between calls (batch 1; not thread-safe).

    A hybrid bundle's decode graph has the same inputs and outputs and uses the same buffers.
    """

    def __init__(self, bundle: Path, manifest: Manifest, threads: int | None, device: Device = CPU) -> None:
        graphs = [name for name in ("llm", DECODE) if name in manifest.graphs]  # for prompts and for answers
        with NewMemory() as self._weights:
            self.sessions = [_open_checked(bundle, manifest, name, threads, device) for name in graphs]
        self._steps = 0
        self._manifest, self._vocab_size, self._device = manifest, manifest.llm.vocab_size, device
        self._silent = ort.RunOptions()
        self._silent.log_severity_level = SILENT
        self._silent.add_run_config_entry("gpu_graph_id", "0")  # the default; each call of a binding would look for it
        self.clear()

    def clear(self) -> None:
        """Frees the KV cache and all states; the next call starts with empty ones."""
        cache, states = KvCache(self._manifest, self._device), RecurrentStates(self._manifest, self._device)
        self.cache, self.states = cache, states
        self._bindings = [session.io_binding() for session in self.sessions]
        self._inputs = [BoundInputs(binding, self._device) for binding in self._bindings]

    def forward(self, inputs: LlmInputs) -> Floats:
        """Returns logits [K, vocab]; the cache then holds past + S tokens."""
        total = inputs.past + len(inputs.ids)
        which = -1 if inputs.answer else 0
        session, binding = self.sessions[which], self._bindings[which]
        with raising_engine_errors:
            self.cache.reserve(total, inputs.past, self._bindings)
        self.states.bind(inputs.past, binding)
        self._inputs[which].set(llm_feeds(self._manifest, inputs, self.cache.capacity))
        logits = np.empty((1, len(inputs.wanted), self._vocab_size), np.float32)
        binding.bind_ortvalue_output("logits", ort.OrtValue.ortvalue_from_numpy(logits))
        with raising_engine_errors:
            session.run_with_iobinding(binding, self._silent)
        self.states.advance(inputs.past, total)
        self._steps += inputs.answer
        if self._steps == PAYS_AFTER:
            self._weights.gather()
        return np.asarray(logits[0])

    def fork(self) -> Self:
        """Returns the same graphs with empty states."""
        twin = copy(self)
        twin.clear()
        return twin

    def adopt(self, other: Self, tokens: int) -> None:
        """See `sessions.engine.Forkable`."""
        with raising_engine_errors:
            self.cache.copy(other.cache, tokens, tokens, self._bindings)

    def snapshot(self) -> None:
        """See `sessions.engine.Engine`."""
        self.states.snapshot()

    def resumable(self, past: int) -> int:
        """See `sessions.engine.Engine`."""
        return self.states.resumable(past)


class CpuEngine:
    """All graphs of a bundle in ONNX Runtime; see `sessions.engine.Engine` and `Forkable`."""

    def __init__(self, vision: CpuVision, llm: CpuLlm) -> None:
        self.vision, self.llm, self.encode, self.forward = vision, llm, vision.encode, llm.forward
        self.snapshot, self.resumable = llm.snapshot, llm.resumable

    def fork(self) -> CpuEngine:
        """See `sessions.engine.Forkable`."""
        return CpuEngine(self.vision, self.llm.fork())

    def adopt(self, other: CpuEngine, tokens: int) -> None:
        """See `sessions.engine.Forkable`."""
        self.llm.adopt(other.llm, tokens)

    def clear(self) -> None:
        """Frees the KV cache and all states; the next call starts with empty ones."""
        self.llm.clear()

    def close(self) -> None:
        """Frees the sessions; any later call raises EngineError."""
        with maps.change():
            for part in ("vision", "llm"):
                self.__dict__.pop(part, None)
            end_calls(self)
