"""`tensorrt` and `tensorrt_rtx` as far as they are used, with the documented rules for shapes, profiles and addresses.

Engines are the ONNX graphs themselves, run by ONNX Runtime on the memory of `FakeCuda`.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from enum import Enum, IntEnum
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from .fake_cuda import ALIGNMENT, STREAM, FakeCuda

Profile = dict[str, tuple[tuple[int, ...], ...]]
MAGIC = b"fake engine\n"
DTYPES = {
    onnx.TensorProto.FLOAT: np.float32,
    onnx.TensorProto.FLOAT16: np.float16,
    onnx.TensorProto.INT64: np.int64,
    onnx.TensorProto.INT32: np.int32,
    onnx.TensorProto.BOOL: np.bool_,
}


class ComputeCapability(Enum):
    NONE, CURRENT, SM75, SM80, SM86, SM89, SM120, SM121 = 0, 1, 75, 80, 86, 89, 120, 121


class Strong(IntEnum):
    STRONGLY_TYPED = 1


class ILogger:
    ERROR, INTERNAL_ERROR, WARNING = "error", "internal error", "warning"


class IStreamWriter: ...


class IProgressMonitor: ...


def serialize(model: onnx.ModelProto, profiles: Sequence[Profile]) -> bytes:
    """The engine of a graph whose weights are inside."""
    return MAGIC + pickle.dumps((model.SerializeToString(), list(profiles)))


class OnnxParser:
    num_errors = 1

    def __init__(self, network: SimpleNamespace, log: Any) -> None:
        self._network = network

    def parse_from_file(self, path: str) -> bool:
        try:
            self._network.model = onnx.load(path)
        except Exception:
            return False
        return True

    def get_error(self, index: int) -> SimpleNamespace:
        return SimpleNamespace(node_operator=lambda: "op", node_name=lambda: "node", desc=lambda: "not a graph")


class OptimizationProfile:
    def __init__(self) -> None:
        self.shapes: Profile = {}

    def set_shape(self, name: str, *shapes: Sequence[int]) -> None:
        least, best, most = (tuple(shape) for shape in shapes)
        assert all(a <= b <= c for a, b, c in zip(least, best, most, strict=True)), name
        self.shapes[name] = (least, best, most)


class TimingCache:
    def __init__(self, known: bytes) -> None:
        self.known = known

    def serialize(self) -> bytes:
        return self.known + b"measured"


class BuilderConfig:
    num_compute_capabilities = 0

    def __init__(self) -> None:
        self.profiles: list[Profile] = []
        self.capabilities: dict[int, ComputeCapability] = {}

    def set_compute_capability(self, capability: ComputeCapability, index: int) -> bool:
        assert index < self.num_compute_capabilities
        self.capabilities[index] = capability
        return True

    def add_optimization_profile(self, profile: OptimizationProfile) -> int:
        self.profiles.append(profile.shapes)
        return len(self.profiles) - 1

    def create_timing_cache(self, known: bytes) -> TimingCache:
        return TimingCache(known)

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        self._timing = cache
        return True

    def get_timing_cache(self) -> TimingCache:
        return self._timing


class Builder:
    def __init__(self, log: Any) -> None:
        self._log = log

    def create_network(self, flags: int) -> SimpleNamespace:
        return SimpleNamespace(flags=flags, model=None, num_layers=0)

    def create_builder_config(self) -> BuilderConfig:
        return BuilderConfig()

    def create_optimization_profile(self) -> OptimizationProfile:
        return OptimizationProfile()

    def build_serialized_network_to_stream(self, network: SimpleNamespace, config: BuilderConfig, writer: Any) -> bool:
        config.progress_monitor.phase_start("all", None, 2)
        config.progress_monitor.step_complete("all", 0)
        dynamic = {v.name for v in network.model.graph.input if any(d.dim_param for d in v.type.tensor_type.shape.dim)}
        if any(set(profile) != dynamic for profile in config.profiles):
            self._log.log(ILogger.ERROR, "a dynamic input lacks a profile")
            return False
        data = serialize(network.model, config.profiles)
        return bool(writer.write(data) == len(data))


class RuntimeCache:
    def __init__(self) -> None:
        self.kernels = b""

    def deserialize(self, blob: bytes) -> bool:
        self.kernels = blob
        return True

    def serialize(self) -> bytes:
        return self.kernels + b"kernel"


class RuntimeConfig:
    cuda_graph_strategy = None
    cache: RuntimeCache | None = None

    def create_runtime_cache(self) -> RuntimeCache:
        return RuntimeCache()

    def set_runtime_cache(self, cache: RuntimeCache) -> bool:
        self.cache = cache
        return True


class Engine:
    def __init__(self, cuda: FakeCuda, blob: bytes, narrow: bool) -> None:
        model, self.profiles = pickle.loads(blob.removeprefix(MAGIC))
        self.cuda, self.session = cuda, ort.InferenceSession(model)
        graph = onnx.load_from_string(model).graph
        self.inputs = {value.name: _port(value) for value in graph.input}
        self.outputs = {value.name: _port(value) for value in graph.output}
        if narrow:  # before 9.0 there is no int64
            self.inputs = {name: (np.int32 if t is np.int64 else t, axes) for name, (t, axes) in self.inputs.items()}
        self.wide = {name for name, value in zip(self.inputs, graph.input, strict=True) if _port(value)[0] is np.int64}
        self.names = [*self.inputs, *self.outputs]

    @property
    def num_io_tensors(self) -> int:
        return len(self.names)

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_dtype(self, name: str) -> str:
        dtype, _ = (self.inputs | self.outputs)[name]
        return np.dtype(dtype).name

    def create_runtime_config(self) -> RuntimeConfig:
        return RuntimeConfig()

    def create_execution_context(self, config: RuntimeConfig | None = None) -> ExecutionContext:
        return ExecutionContext(self)


Port = tuple[Any, list[int | str]]


def _port(value: onnx.ValueInfoProto) -> Port:
    tensor = value.type.tensor_type
    return DTYPES[tensor.elem_type], [axis.dim_param or axis.dim_value for axis in tensor.shape.dim]


class ExecutionContext:
    def __init__(self, engine: Engine) -> None:
        self._engine, self._profile = engine, None
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        assert stream == STREAM
        self._profile = self._engine.profiles[index]
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert self._profile is not None
        least, _, most = self._profile.get(name, (shape, shape, shape))
        self._shapes[name] = shape
        return all(a <= size <= b for a, size, b in zip(least, shape, most, strict=True))

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return name in self._engine.names and address in self._engine.cuda.buffers and address % ALIGNMENT == 0

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        _, axes = self._engine.outputs[name]
        sizes = self._sizes()
        return tuple(axis if isinstance(axis, int) else sizes[axis] for axis in axes)

    def _sizes(self) -> dict[str, int]:
        sizes = {}
        for name, (_, axes) in self._engine.inputs.items():
            if name in self._shapes:
                pairs = zip(axes, self._shapes[name], strict=True)
                sizes |= {axis: size for axis, size in pairs if isinstance(axis, str)}
        if "patch_positions" in self._engine.inputs:
            sizes["image_tokens"] = sizes["frames"] * sizes["patches"] // 4
        elif "pixel_values" in self._engine.inputs:  # squares become as many tokens as the graph says
            pixels = np.zeros(self._shapes["pixel_values"], np.float32)
            sizes["image_tokens"] = len(self._engine.session.run(["image_features"], {"pixel_values": pixels})[0])
        return sizes

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == STREAM
        engine, addresses = self._engine, dict(self._addresses)
        if set(addresses) != set(engine.names):
            return False
        sizes = self._sizes()
        shapes = {
            name: (dtype, tuple(axis if isinstance(axis, int) else sizes[axis] for axis in axes))
            for name, (dtype, axes) in (engine.inputs | engine.outputs).items()
        }

        def work() -> None:
            feeds = {name: _array(engine.cuda, addresses[name], *shapes[name]).copy() for name in engine.inputs}
            feeds |= {name: feeds[name].astype(np.int64) for name in engine.wide}
            for name, value in zip(engine.outputs, engine.session.run(list(engine.outputs), feeds), strict=True):
                past = name.replace("present", "past_key_values")
                assert past not in addresses or addresses[past] == addresses[name], "an aliased pair lies apart"
                _array(engine.cuda, addresses[name], *shapes[name])[...] = value

        engine.cuda.enqueue(work)
        return True


def _array(cuda: FakeCuda, address: int, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    return cuda.view(address, int(np.prod(shape)) * np.dtype(dtype).itemsize).view(dtype).reshape(shape)


def library(cuda: FakeCuda, version: str) -> SimpleNamespace:
    """The module; before TensorRT 11 networks are strongly typed by a flag."""

    def deserialize(log: Any) -> Callable[[bytes], Engine | None]:
        def engine(blob: bytes) -> Engine | None:
            if not blob.startswith(MAGIC):
                log.log(ILogger.ERROR, "magic tag does not match")
                return None
            return Engine(cuda, blob, narrow=version.startswith("8."))

        return engine

    return SimpleNamespace(
        __version__=version,
        int32="int32",
        ILogger=ILogger,
        IStreamWriter=IStreamWriter,
        IProgressMonitor=IProgressMonitor,
        NetworkDefinitionCreationFlag=Strong if version.startswith("10.") else SimpleNamespace(),
        ComputeCapability=ComputeCapability,
        CudaGraphStrategy=SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole"),
        Builder=Builder,
        OnnxParser=OnnxParser,
        Runtime=lambda log: SimpleNamespace(deserialize_cuda_engine=deserialize(log)),
    )
