"""Loads a TensorRT engine file, selects the profile that fits the inputs, and calls it with numpy arrays.

`tensorrt` and `tensorrt_rtx` have the same API; the module is passed as `trt`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from ...bundle import inside
from ...common.log import log as messages
from ...common.log import timed
from ...errors import BundleError, PromptError
from ...manifest import GraphEntry, Manifest, Port, Profile
from .context import Context
from .cuda_driver import Buffer, Cuda

Arrays = dict[str, np.ndarray]
NOTHING: Mapping[str, Buffer] = MappingProxyType({})
MakeContext = Callable[[Any, str], Any]
"""Creates an execution context from an engine and its file's name; differs between the two libraries."""
DTYPES = {"float": np.float32, "float16": np.float16, "int64": np.int64, "int32": np.int32, "bool": np.bool_}
AXES = {"patches": "patches per page", "frames": "temporal patches per video", "windows": "windows per video"}
FIX = "resize it, or export with a larger --max-pixels or --max-length; --profile video for videos"


def logger(trt: Any) -> Any:
    """Returns a TensorRT logger that collects errors, to be quoted in ours, and prints nothing."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)

    return Logger()


def check_built(bundle: Path, manifest: Manifest, release: str) -> None:
    """Raises BundleError for an engine that is to be built here, by a `release` (empty: any), and was not yet."""
    for entry in manifest.graphs.values():
        if entry.engine and not (path := inside(bundle, entry.engine.file)).is_file():
            fix = "run build_engines.sh of the bundle on this machine" + (f", with {release}" if release else "")
            raise BundleError("is not built yet", where=path, fix=fix)


def load_engine(bundle: Path, entry: GraphEntry, cuda: Cuda, trt: Any, library: str) -> tuple[Any, tuple[Any, ...]]:
    """Returns a graph's deserialized engine and the objects it depends on; raises BundleError if it cannot be used."""
    assert entry.engine is not None
    path = inside(bundle, entry.engine.file)
    built_for = entry.engine.compute_capabilities
    if built_for and cuda.compute_capability not in built_for:
        raise BundleError(
            f"is built for compute capability {', '.join(map(str, built_for))}; this GPU has {cuda.compute_capability}",
            where=path,
            fix=f"export with --compute-capability {cuda.compute_capability}",
        )
    log = logger(trt)
    runtime = trt.Runtime(log)
    with timed(messages, "engine loaded: %s, %d bytes", path, path.stat().st_size):
        engine = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        reason = log.errors[-1] if log.errors else "no reason given"
        builder = entry.engine.builder or "another version"
        raise BundleError(
            f"{library} {trt.__version__} rejects the engine, which {builder} built: {reason[:300]}",
            where=path,
            fix=f"install the {library} that built it, or export again",
        )
    return engine, (runtime, log)


def axis_sizes(entry: GraphEntry, feeds: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Returns the sizes of the dynamic axes of a graph's inputs, taken from the arrays."""
    sizes: dict[str, int] = {}
    for port in entry.inputs:
        if port.name in feeds:
            axes = zip(port.shape, feeds[port.name].shape, strict=True)
            sizes |= {axis: size for axis, size in axes if isinstance(axis, str)}
    return sizes


def choose_profile(profiles: Sequence[Profile], sizes: Mapping[str, int], where: str) -> int:
    """Returns the index of the smallest profile of the engine `where` that fits the sizes.

    Raises PromptError if none does, naming the axis.
    """
    fitting = [
        index
        for index, profile in enumerate(profiles)
        if all(size in profile.axes[axis] for axis, size in sizes.items())
    ]
    if fitting:
        return min(fitting, key=lambda index: math.prod(axis.max or 1 for axis in profiles[index].axes.values()))
    for axis, size in sizes.items():
        bounds = [profile.axes[axis] for profile in profiles]
        if not any(size in bound for bound in bounds):
            least, most = min(bound.min for bound in bounds), max(bound.max for bound in bounds)
            bounds_text = f"{least:,} to {most:,}" if least < most else f"{most:,}"
            raise PromptError(f"{size:,} {AXES.get(axis, axis)}; it was built for {bounds_text}", where=where, fix=FIX)
    requested = ", ".join(f"{size:,} {axis}" for axis, size in sizes.items())
    raise PromptError(f"{requested}: no profile of the engine fits all of these sizes", where=where, fix=FIX)


class TrtGraph:
    """One graph of a bundle as an engine; `shared` tensors (name → buffer) are bound to the caller's buffers."""

    def __init__(
        self, bundle: Path, entry: GraphEntry, cuda: Cuda, trt: Any, library: str, make_context: MakeContext
    ) -> None:
        assert entry.engine is not None
        self.entry, self.profiles, self._cuda = entry, entry.engine.profiles, cuda
        self._engine, self._dependencies = load_engine(bundle, entry, cuda, trt, library)
        self._make_context, self._file = make_context, entry.engine.file
        self._contexts: dict[int, Context] = {}
        self._check(inside(bundle, self._file))
        self._dtypes = {port.name: self._dtype(port, trt) for port in entry.inputs}

    def _dtype(self, port: Port, trt: Any) -> Any:
        """The type in which an input is fed: TensorRT before 9.0 has int32 where the graph has int64."""
        if port.dtype == "int64" and self._engine.get_tensor_dtype(port.name) == trt.int32:
            return np.int32
        return DTYPES[port.dtype]

    def _check(self, path: Path) -> None:
        """Raises BundleError unless the engine has the graph's inputs and outputs."""
        found = {self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)}
        if found != {port.name for port in (*self.entry.inputs, *self.entry.outputs)}:
            raise BundleError("inputs and outputs differ from the manifest", where=path, fix="export again")

    def max_size(self, axis: str) -> int:
        """Returns the largest size of an axis in any profile."""
        return max(profile.axes[axis].max for profile in self.profiles)

    def context(self, feeds: Mapping[str, np.ndarray]) -> Context:
        """Returns the context whose profile fits the inputs, created on first use; raises PromptError if none fits."""
        index = choose_profile(self.profiles, axis_sizes(self.entry, feeds), self._file)
        if index not in self._contexts:
            created = self._make_context(self._engine, self._file)
            self._contexts[index] = Context(self._cuda, created, index)
        return self._contexts[index]

    def prepare(self, feeds: Mapping[str, np.ndarray], shared: Mapping[str, Buffer]) -> tuple[Context, Arrays]:
        """Binds everything for a call; returns the context, and arrays for the outputs that are not shared."""
        context = self.context(feeds)
        results: Arrays = {}
        for name, array in feeds.items():
            context.set_shape(name, array)
        for name, array in feeds.items():
            context.feed(name, array)
        for name, buffer in shared.items():
            context.set_address(name, buffer.address)
        for port in self.entry.outputs:
            if port.name not in shared:
                array = results[port.name] = np.empty(context.output_shape(port.name), DTYPES[port.dtype])
                context.set_address(port.name, context.buffer(port.name, array.nbytes).address)
        return context, results

    def call(self, feeds: Arrays, shared: Mapping[str, Buffer] = NOTHING, record: bool = False) -> list[np.ndarray]:
        """Returns the outputs that are not shared, in the manifest's order; see `Context.run` for `record`."""
        arrays = {name: np.ascontiguousarray(array, self._dtypes[name]) for name, array in feeds.items()}
        context, results = self.prepare(arrays, shared)
        context.run(record)
        for name, array in results.items():
            self._cuda.download(array, context.buffer(name, array.nbytes).address)
        self._cuda.wait()
        return list(results.values())

    def close(self) -> None:
        """Frees contexts and buffers, then the engine."""
        for context in self._contexts.values():
            context.free()
        self._contexts.clear()
        self._engine = None
        self._dependencies = ()
