"""Loads OpenVINO, and compiles a bundle's graphs for one of its devices."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...bundle import inside
from ...common.extras import import_failure, install_fix
from ...common.log import log, timed
from ...errors import BundleError, EngineError, InstallError
from ...manifest import GraphEntry, Manifest
from .. import cores
from .stateful import keep_cache

DEVICES = ("CPU", "GPU", "AUTO")
"""The devices of OpenVINO that run these graphs; `GPU.1` is the second GPU."""
LEAST_VERSION = (2026, 2)
PLACES = ("Exception from", "Check '")
"""How lines of errors begin that name a place in OpenVINO's source."""
SUMMARY = "Summary:"
"""The line of an error after which it lists reasons, each behind `-- `."""
OUTSIDE_DATA = "externally stored data in file"
"""What an error says about weights that their file does not hold."""
KEPT = {"float": "f32", "float16": "f16"}
"""OpenVINO's names of the types of keys and values."""


class Compiler:
    """Reads and compiles the graphs of one bundle for one device.

    Raises InstallError without OpenVINO, EngineError for a device that is not there or that cannot run the graphs.
    """

    def __init__(self, bundle: Path, device: str, threads: int | None) -> None:
        self._core = core()
        device = device.upper()
        _check_device(device, self._core.available_devices)
        self._device, self._bundle, self._config = device, bundle, _config(device, threads)

    def request(self, graph: GraphEntry, cached: Manifest | None = None) -> Any:
        """Returns a request for inferences of a graph; the KV cache of the bundle `cached` is kept in the request.

        Raises BundleError if OpenVINO rejects the graph.
        """
        path, config = inside(self._bundle, graph.model), self._config
        _check_format(path)
        device = "AUTO:-NPU" if self._device == "AUTO" else self._device
        try:
            with timed(log, "graph compiled: %s, %s, %s", path, device, config):
                model = self._core.read_model(path)
                _check_ports(model, graph, path)
                if tensors := cached.cache_tensors("kv") if cached else []:
                    keep_cache(model, {tensor.past: tensor.present for tensor in tensors})
                    if device == "CPU":
                        config = config | {"KV_CACHE_PRECISION": KEPT[tensors[0].dtype]}
                return self._core.compile_model(model, device, config).create_infer_request()
        except RuntimeError as error:
            raise self._rejected(graph, _reason(error)) from error

    def _rejected(self, graph: GraphEntry, reason: str) -> BundleError:
        """Returns the error for a graph, or for its weights if the reason is about them."""
        if graph.data and OUTSIDE_DATA in reason:
            problem = f"does not hold all weights of {graph.model}"
            return BundleError(problem, where=inside(self._bundle, graph.data), fix="copy or export it again")
        problem, fix = f"OpenVINO rejects it: {reason}", "check the bundle with `inspect --verify`"
        return BundleError(problem, where=inside(self._bundle, graph.model), fix=fix)


def library() -> Any:
    """Returns the module `openvino`; raises InstallError if it is missing, damaged or too old."""
    try:
        import openvino
    except ImportError as error:
        raise import_failure(error, "openvino", "OpenVINO", install_fix("openvino")) from error
    numbers = re.match(r"(\d+)\.(\d+)", openvino.__version__)  # builds of one's own may have none
    if numbers and (int(numbers[1]), int(numbers[2])) < LEAST_VERSION:
        least = ".".join(map(str, LEAST_VERSION))
        raise InstallError(
            f"OpenVINO {openvino.__version__} is too old: {least} is needed", fix=install_fix("openvino")
        )
    return openvino


def core() -> Any:
    """Returns OpenVINO's object that reads and compiles graphs, one for the process; raises what `library` raises.

    Each has its own plugin for CPUs, which gives the thread that makes it a stack for signals and unmaps it in the end.
    When the older of two ends first, the thread is left with an unmapped one, and the next signal ends the process
    (OpenVINO 2026.4.1), if its handler uses that stack, as Python's do: Ctrl+C would.
    """
    return _core_of(library())


@functools.cache
def _core_of(openvino: Any) -> Any:
    return openvino.Core()


def _check_device(device: str, found: list[str]) -> None:
    """Raises EngineError for a device that OpenVINO did not find here, or that needs other graphs."""
    kind = device.partition(".")[0]
    if kind == "NPU":
        raise EngineError(
            "an NPU needs graphs of fixed shapes, which bundles do not have", fix=f"one of {', '.join(DEVICES)}"
        )
    usable = [name for name in found if name.partition(".")[0] in DEVICES]
    fix = f"one of {', '.join((*usable, 'AUTO'))}"
    if not device:
        raise EngineError("no device is named", fix=fix)
    if ":" in device or "," in device:
        raise EngineError(f"{device!r} is a list of devices, and graphs are compiled for one", fix=fix)
    kinds = {name.partition(".")[0] for name in found}
    if device not in ("AUTO", *found) and not (device == kind and kind in kinds & set(DEVICES)):
        raise EngineError(f"OpenVINO finds no device {device!r} here", fix=fix)


def _config(device: str, threads: int | None) -> dict[str, Any]:
    """Options of compiling.

    OpenVINO's cache of compiled graphs stays off: language models that 2026.4.1 takes from it compute wrong logits, and
    it takes one graph for another whose weights alone differ.
    """
    config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if device == "CPU":
        used = min(threads or cores(), cores())
        config |= {"INFERENCE_NUM_THREADS": used, "INFERENCE_PRECISION_HINT": "f32"}
        config["ENABLE_CPU_PINNING"] = used == cores()  # several processes would share the first cores
    return config


def _check_format(path: Path) -> None:
    """Raises BundleError for a file that does not begin as an ONNX model.

    `read_model` would try it as a model of other frameworks, whose readers print messages of their own.
    """
    from openvino.frontend import FrontEndManager

    if not FrontEndManager().load_by_framework("onnx").supported(str(path)):
        raise BundleError("is damaged, or not an ONNX model", where=path, fix="copy or export it again")


def _check_ports(model: Any, graph: GraphEntry, path: Path) -> None:
    """Raises BundleError unless the names of inputs and outputs are those of the manifest."""
    found = [port.get_any_name() for port in (*model.inputs, *model.outputs)]
    ports = [port.name for port in (*graph.inputs, *graph.outputs)]
    if ports != found[: len(ports)]:  # further outputs are those of `blame`
        raise BundleError("inputs and outputs differ from the manifest", where=path, fix="export again")


@contextlib.contextmanager
def raising_engine_errors() -> Iterator[None]:
    """Converts OpenVINO's exceptions into EngineError."""
    try:
        yield
    except RuntimeError as error:
        raise EngineError(f"OpenVINO failed: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """What an error of OpenVINO says in the end, after the places and steps where it happened: the reasons of its
    summary, or its last line."""
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith(PLACES)]
    listed = lines[lines.index(SUMMARY) + 1 :] if SUMMARY in lines else []
    reasons = [line.removeprefix("-- ") for line in listed if line.startswith("-- ")]
    return ("; ".join(reasons) or (lines or [type(error).__name__])[-1])[:300]
