"""Builds an engine file from an ONNX file, with the `tensorrt` or `tensorrt_rtx` module, which have the same API.

The module is passed as `trt`. The parser reads external data itself, so that no protobuf holds weights; the engine is
streamed to its file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from qvl_runtime.common.log import timed
from qvl_runtime.manifest import EngineEntry, GraphEntry, Manifest, Profile
from qvl_runtime.sessions._tensorrt.engine import logger

from ..common.log import log
from ..common.progress import Progress
from ..errors import ExportError
from . import Finished, engine_name, onnx_files, with_engine
from .profiles import profiles

NOISE = ("CUDA initialization", "CUDA driver", "cudaError", "cudaGet")
"""Parts of errors that builders log on a machine without a GPU and that do not stop a build."""
POLL = 0.2
"""Timeout of a wait in seconds; on Windows, a wait without a timeout cannot be interrupted."""
Configure = Callable[[Any], None]


def _nothing(config: Any) -> None: ...


@dataclass(frozen=True)
class Library:
    """The module `trt`, its name, the compute capabilities to build for, and its own functions `configure` and `keep`,
    called with the builder configuration before and after building."""

    trt: Any
    name: str
    capabilities: tuple[int, ...]
    configure: Configure
    keep: Configure = _nothing

    def refused(self, model: Path, errors: Sequence[str]) -> ExportError:
        reasons = [error for error in errors if not any(noise in error for noise in NOISE)] or ["it does not say why"]
        return ExportError(f"{self.name} refuses the graph: {reasons[0][:300]}", where=model.name)


def check(library: Library) -> None:
    """Raises ExportError if the library does not support its configuration, before graphs are written."""
    library.configure(library.trt.Builder(logger(library.trt)).create_builder_config())


def finish(directory: Path, manifest: Manifest, progress: Progress, library: Library, kind: str) -> Finished:
    """Replaces all graphs' ONNX files by engines; raises ExportError if the library refuses a graph."""
    graphs: dict[str, GraphEntry] = {}
    for name, entry in manifest.graphs.items():
        shapes = profiles(name, manifest, kind)
        progress.stage(f"building {engine_name(name)}", _size(entry))
        with timed(log, "engine built: %s", engine_name(name)):
            build(directory / entry.model, directory / engine_name(name), entry, shapes, library, progress)
        engine = EngineEntry(
            file=engine_name(name),
            builder=f"{library.name} {library.trt.__version__}",
            compute_capabilities=list(library.capabilities),
            profiles=shapes,
        )
        graphs[name] = with_engine(entry, engine, keep=False)
    built = tuple(engine_name(name) for name in graphs)
    return Finished(graphs, built, onnx_files(list(manifest.graphs.values())))


def _size(entry: GraphEntry) -> int:
    return sum(entry.weight_bytes.values())


def build(
    model: Path, out: Path, entry: GraphEntry, shapes: Sequence[Profile], library: Library, progress: Progress
) -> None:
    """Parses `model` and writes its engine to `out`; raises ExportError with the library's message."""
    trt, log = library.trt, logger(library.trt)
    builder = trt.Builder(log)
    network = builder.create_network(_flags(trt))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(model)):
        raise library.refused(model, _parser_errors(parser) or log.errors)
    _let_decompose(trt, network)
    config = builder.create_builder_config()
    library.configure(config)
    config.progress_monitor = monitor = _monitor(trt, progress, _size(entry), stopping := Stopping())
    for profile in shapes:
        if config.add_optimization_profile(_optimization(builder, entry, profile)) < 0:
            raise library.refused(model, [*log.errors, f"profile {profile.name}"])
    with out.open("wb") as file:
        writer = _writer(trt, file, stopping)
        built = stopping.run(lambda: builder.build_serialized_network_to_stream(network, config, writer))
    monitor.finish()
    if not built:
        raise library.refused(model, log.errors)
    library.keep(config)


def _flags(trt: Any) -> int:
    """The flag that makes types follow the graph; TensorRT 11 always does so and has no flag."""
    strong = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if strong is None else 1 << int(strong)


def _let_decompose(trt: Any, network: Any) -> None:
    """Allows attention as products and a softmax for shapes without a fused kernel: slower, but it builds."""
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == trt.LayerType.ATTENTION_OUTPUT:
            layer.__class__ = trt.IAttentionOutputLayer  # get_layer returns a bare ILayer
            layer.attention.decomposable = True


def _optimization(builder: Any, entry: GraphEntry, profile: Profile) -> Any:
    found = builder.create_optimization_profile()
    for port in entry.inputs:
        if port.dynamic:
            found.set_shape(port.name, *(profile.shape(port, which) for which in ("min", "opt", "max")))
    return found


def _parser_errors(parser: Any) -> list[str]:
    errors = (parser.get_error(index) for index in range(parser.num_errors))
    return [f"{error.node_operator()} {error.node_name()}: {error.desc()}" for error in errors]


class Stopping:
    """Runs a build that can be stopped, and keeps exceptions of callbacks, which the library would lose or abort on.

    The build runs in a separate thread, because interruptions are raised in the main thread.
    """

    def __init__(self) -> None:
        self._error: BaseException | None = None

    def run(self, build: Callable[[], Any]) -> Any:
        """Returns the result of a build; raises exceptions of its callbacks and of the waiting thread."""
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(build)
            try:
                while not future.done():
                    wait([future], POLL)
            except BaseException as error:
                self._error = error  # the next callback ends the build
                raise
        if self._error is not None:
            raise self._error
        return future.result()

    def keeping(self, work: Callable[[], object]) -> bool:
        """Runs `work` in a callback; returns whether it and all earlier work succeeded."""
        try:
            if self._error is None:
                work()
        except Exception as error:
            self._error = error
        return self._error is None


def _writer(trt: Any, file: BinaryIO, stopping: Stopping) -> Any:
    """Returns a stream writer that writes the engine to `file`."""

    class Writer(trt.IStreamWriter):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IStreamWriter.__init__(self)

        def write(self, data: Any) -> int:
            return len(data) if stopping.keeping(lambda: file.write(data)) else 0

    return Writer()


def _monitor(trt: Any, progress: Progress, total: int, stopping: Stopping) -> Any:
    """Returns a monitor that reports steps of the outermost phase as shares of `total`, and ends a stopping build."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.root, self.step, self.reported = "", 0, 0

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            if parent is None:
                self.root, self.step = name, total // max(1, steps)

        def step_complete(self, name: str, step: int) -> bool:
            return stopping.keeping(
                lambda: self._report(min(self.step, total - self.reported)) if name == self.root else None
            )

        def phase_finish(self, name: str) -> None: ...

        def finish(self) -> None:
            self._report(total - self.reported)

        def _report(self, count: int) -> None:
            self.reported += count
            progress.advance(count)

    return Monitor()
