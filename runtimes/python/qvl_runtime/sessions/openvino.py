"""Target `openvino`: the graphs in OpenVINO, with the KV cache as a state of the compiled language model.

OpenVINO's plugin for CPUs fuses the cache with attention if the cache is a state that is gathered by a beam index, so
both are added when the graph is loaded. Arithmetic is float32 on every CPU; without a hint it would be bfloat16 on
some, and keys and values would be kept in 8 bits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..bundle import inside
from ..common import user_cache
from ..common.arrays import Floats, Ints
from ..common.extras import install_fix
from ..common.log import log, timed
from ..errors import BundleError, EngineError, InstallError
from ..manifest import GraphEntry, ImageGeometry, Manifest
from ..positions import Grid
from . import cores
from .engine import LlmInputs, end_calls
from .feeds import llm_feeds, vision_feeds
from .portable import cache_state

__all__ = ["cache_state", "open"]

LEAST_VERSION = (2026, 2)
BEAM = "beam_idx"
MASK = 3
"""The input of attention that is its mask."""
PAST, PRESENT = "past_key_values", "present"
KEPT = {"float": "f32", "float16": "f16"}
"""OpenVINO's names of the types of keys and values."""


def open(bundle: Path, manifest: Manifest, threads: int | None, device: str = "CPU") -> OpenvinoEngine:
    """Compiles the graphs for `device`; raises InstallError without OpenVINO, EngineError for a device that is not
    there, and BundleError if OpenVINO rejects a graph."""
    core = _library().Core()
    if device not in ("AUTO", *core.available_devices):
        found = ", ".join((*core.available_devices, "AUTO"))
        raise EngineError(f"OpenVINO finds no device {device!r} here", fix=f"one of {found}")
    compiler = Compiler(core, device, bundle, _config(device, threads))
    return OpenvinoEngine(Vision(manifest.image, compiler, manifest.graphs["vision"]), Llm(manifest, compiler))


def _library() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise InstallError("OpenVINO is not installed", fix=install_fix("openvino")) from error
    if tuple(int(part) for part in openvino.__version__.split("-")[0].split(".")[:2]) < LEAST_VERSION:
        least = ".".join(map(str, LEAST_VERSION))
        raise InstallError(
            f"OpenVINO {openvino.__version__} is too old: {least} is needed", fix=install_fix("openvino")
        )
    return openvino


def _config(device: str, threads: int | None) -> dict[str, Any]:
    config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    with contextlib.suppress(OSError):  # no cache where nothing can be stored
        directory = user_cache.directory("qvl-runtime") / "openvino"
        directory.mkdir(parents=True, exist_ok=True)
        config["CACHE_DIR"] = str(directory)
    if device == "CPU":
        config |= {"INFERENCE_NUM_THREADS": min(threads or cores(), cores()), "INFERENCE_PRECISION_HINT": "f32"}
    return config


class Compiler:
    """Reads and compiles the graphs of one bundle for one device."""

    def __init__(self, core: Any, device: str, bundle: Path, config: Mapping[str, Any]) -> None:
        self._core, self._device, self._bundle, self._config = core, device, bundle, dict(config)

    def request(self, graph: GraphEntry, stateful: bool = False) -> Any:
        """Returns a request for inferences of a graph; with `stateful` its KV cache is kept in the request."""
        path, config = inside(self._bundle, graph.model), self._config
        try:
            with timed(log, "graph compiled: %s, %s, %s", path, self._device, config):
                model = self._core.read_model(path)
                if stateful:
                    _keep_cache(model)
                    kept = next(port.dtype for port in graph.inputs if port.name.startswith(PAST))
                    config = config | ({"KV_CACHE_PRECISION": KEPT[kept]} if self._device == "CPU" else {})
                return self._core.compile_model(model, self._device, config).create_infer_request()
        except RuntimeError as error:
            raise BundleError(
                f"OpenVINO rejects it: {_first_line(error)}", where=path, fix="check the bundle with `inspect --verify`"
            ) from error


def _keep_cache(model: Any) -> None:
    """Makes the past and present of every layer a state, empty at first and selected by an input `beam_idx` [1].

    This is the form in which OpenVINO's plugins fuse attention with its cache.
    """
    from openvino import opset13 as ops
    from openvino.passes import MakeStateful, Manager

    beam = ops.parameter([1], dtype=np.int32, name=BEAM)
    beam.output(0).get_tensor().set_names({BEAM})
    pairs = _select_by(model, beam)
    model.add_parameters([beam])
    _drop_padding(model)
    model.validate_nodes_and_infer_types()
    manager = Manager()
    manager.register_pass(MakeStateful(pairs))
    manager.run_passes(model)
    for node in model.get_ops():
        if node.get_type_name() == "ReadValue":
            heads, dim = (node.get_output_partial_shape(0)[axis].get_length() for axis in (1, 3))
            sizes = ops.concat([ops.shape_of(beam, "i64"), ops.constant(np.array([heads, 0, dim], np.int64))], 0)
            zero = ops.constant(np.array(0, node.get_output_element_type(0).to_dtype()))
            node.set_arguments([ops.broadcast(zero, sizes).output(0)])
    model.validate_nodes_and_infer_types()


def _select_by(model: Any, beam: Any) -> dict[str, str]:
    """Gathers every past by the beam index; returns the names of past and present."""
    from openvino import opset13 as ops

    pairs = {}
    for parameter in model.get_parameters():
        name = parameter.output(0).get_any_name()
        if name.startswith(PAST):
            readers = parameter.output(0).get_target_inputs()
            chosen = ops.gather(parameter, beam, ops.constant(0))
            for reader in readers:
                reader.replace_source_output(chosen.output(0))
            pairs[name] = name.replace(PAST, PRESENT)
    return pairs


def _drop_padding(model: Any) -> None:
    """Gives attention its mask without the padding to the number of keys, which it already has: OpenVINO reads that
    number from the keys, and then does not fuse attention."""
    for node in model.get_ops():
        if node.get_type_name() == "ScaledDotProductAttention" and node.get_input_size() > MASK:
            padded = node.input_value(MASK).get_node()
            if padded.get_type_name() == "Pad":
                node.input(MASK).replace_source_output(padded.input_value(0))


@contextlib.contextmanager
def _raising_engine_errors() -> Iterator[None]:
    """Converts OpenVINO's exceptions into EngineError."""
    try:
        yield
    except RuntimeError as error:
        raise EngineError(f"OpenVINO failed: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    """The first line that says something; OpenVINO's own ones name its source files."""
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith("Exception from")]
    return (lines or [type(error).__name__])[0][:300]


class Vision:
    """The vision graph."""

    def __init__(self, image: ImageGeometry, compiler: Compiler, graph: GraphEntry) -> None:
        self._image, self._request = image, compiler.request(graph)
        self._names = [port.name for port in graph.outputs]

    def encode(self, pixel_values: Floats, grid: Grid, cells: Ints | None = None) -> Floats:
        """Patches [frames, patches, dim] → features [1 + D, tokens, H] of the image and of D DeepStack layers."""
        with _raising_engine_errors():
            found = self._request.infer({"pixel_values": pixel_values, **vision_feeds(self._image, grid, cells)})
        return np.stack([found[name] for name in self._names])


class Llm:
    """The language graph with its KV cache (batch 1; not thread-safe)."""

    def __init__(self, manifest: Manifest, compiler: Compiler) -> None:
        self._manifest, self._request = manifest, compiler.request(manifest.graphs["llm"], stateful=True)
        self._filled = 0

    def clear(self) -> None:
        """Empties the KV cache."""
        self._request.reset_state()
        self._filled = 0

    def forward(self, inputs: LlmInputs) -> Floats:
        """Returns logits [K, vocab]; the cache then holds past + S tokens."""
        total = inputs.past + len(inputs.ids)
        feeds = llm_feeds(self._manifest, inputs, total)
        del feeds["write_indices"]  # of graphs that write in place
        with _raising_engine_errors():
            self._keep(inputs.past)
            self._filled = 0  # until the call succeeds: if it fails, the next one starts over
            found = self._request.infer({**feeds, BEAM: np.zeros(1, np.int32)})
        self._filled = total
        return np.array(found["logits"][0])

    def _keep(self, tokens: int) -> None:
        """Drops all cached tokens but the first `tokens`."""
        if tokens == self._filled:
            return
        if tokens == 0:
            self._request.reset_state()
            return
        import openvino

        for state in self._request.query_state():
            state.state = openvino.Tensor(np.ascontiguousarray(state.state.data[:, :, :tokens]))


class OpenvinoEngine:
    """All graphs of a bundle in OpenVINO; see `sessions.engine.Engine`."""

    def __init__(self, vision: Vision, llm: Llm) -> None:
        self.vision, self.llm, self.encode, self.forward = vision, llm, vision.encode, llm.forward

    def clear(self) -> None:
        """Empties the KV cache."""
        self.llm.clear()

    def close(self) -> None:
        """Frees the compiled graphs; any later call raises EngineError."""
        for part in ("vision", "llm"):
            self.__dict__.pop(part, None)
        end_calls(self)
