"""From a spec to the two ONNX graphs with their contract: names, types and axes of inputs and outputs."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
from onnxscript import GraphBuilder

from qvl_runtime.manifest import Port

from ..families.spec import ModelSpec
from ..targets import Cache, Target, WindowInputs
from .text import Llm, LlmInputs
from .vision import VisionTower

FLOAT, INT64, INT32 = ir.DataType.FLOAT, ir.DataType.INT64, ir.DataType.INT32
Axes = list[int | str]


@dataclass(frozen=True)
class Graph:
    """A model without weights: its initializers of type `Weight` are still to be filled."""

    name: str
    model: ir.Model

    @property
    def inputs(self) -> list[Port]:
        return [_port(value) for value in self.model.graph.inputs]

    @property
    def outputs(self) -> list[Port]:
        return [_port(value) for value in self.model.graph.outputs]


def _port(value: ir.Value) -> Port:
    assert value.name and value.shape is not None and value.dtype is not None
    axes: Axes = [axis if isinstance(axis, int) else str(axis.value) for axis in value.shape]
    return Port(name=value.name, dtype=value.dtype.name.lower(), shape=axes)


def _input(graph: ir.Graph, name: str, dtype: ir.DataType, axes: Axes) -> ir.Value:
    value = ir.Input(name, shape=ir.Shape(axes), type=ir.TensorType(dtype))
    graph.inputs.append(value)
    return value


def _output(graph: ir.Graph, value: ir.Value, name: str, axes: Axes) -> None:
    value.name, value.shape, value.type = name, ir.Shape(axes), ir.TensorType(FLOAT)
    graph.outputs.append(value)


def _empty(name: str, target: Target) -> ir.Graph:
    opsets = {"": target.opset, "com.microsoft": 1}
    return ir.Graph([], [], nodes=[], opset_imports=opsets, name=name)


def build_vision(spec: ModelSpec, target: Target) -> Graph:
    """`pixel_values`, `patch_positions` and, where the tower has windows, their layout → `image_features`."""
    graph, image = _empty("vision", target), spec.image
    pixels = _input(graph, "pixel_values", FLOAT, ["frames", "patches", image.patch_dim])
    positions = _input(graph, "patch_positions", INT64, ["frames", "patches", 2])
    windows = None
    if image.window:
        windows = WindowInputs(
            _input(graph, "window_gather", INT64, ["window_slots"]),
            _input(graph, "window_lengths", INT32, ["windows"]),
            _input(graph, "window_scatter", INT64, ["patches"]),
            (image.window * image.spatial_merge_size) ** 2,
        )
    kernel = [len(image.image_mean), image.temporal_patch_size, image.patch_size, image.patch_size]
    tower = VisionTower(target, spec.vision, kernel)
    features = tower(GraphBuilder(graph).op, pixels, positions, windows)
    _output(graph, features, "image_features", ["image_tokens", spec.text.hidden_size])
    return Graph("vision", ir.Model(graph, ir_version=target.ir_version))


def build_llm(spec: ModelSpec, target: Target) -> Graph:
    """Tokens, positions, image features and past → `logits` at the asked positions, and present."""
    graph, text = _empty("llm", target), spec.text
    inputs = LlmInputs(
        _input(graph, "input_ids", INT64, [1, "sequence"]),
        _input(graph, "position_ids", INT64, [3, 1, "sequence"]),
        _input(graph, "image_features", FLOAT, ["image_tokens", text.hidden_size]),
        _input(graph, "image_positions", INT64, ["image_tokens", 2]),
        _input(graph, "logits_positions", INT64, ["wanted"]),
    )
    filled = _input(graph, "seqlens_k", INT32, [1]), _input(graph, "total_sequence_length", INT32, [])
    past: Axes = [1, text.num_key_value_heads, "past", text.head_dim]
    caches = [
        Cache(
            _input(graph, f"past_key_values.{index}.key", FLOAT, past),
            _input(graph, f"past_key_values.{index}.value", FLOAT, past),
            *filled,
        )
        for index in range(text.num_layers)
    ]
    logits, presents = Llm(target, text)(GraphBuilder(graph).op, inputs, caches)
    _output(graph, logits, "logits", [1, "wanted", text.vocab_size])
    present: Axes = [1, text.num_key_value_heads, "total", text.head_dim]
    for index, pair in enumerate(presents):
        for part, value in zip(("key", "value"), pair, strict=True):
            _output(graph, value, f"present.{index}.{part}", present)
    return Graph("llm", ir.Model(graph, ir_version=target.ir_version))
