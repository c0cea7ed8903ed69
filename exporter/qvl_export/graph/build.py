"""From a spec to the two ONNX graphs with their contract: names, types and axes of inputs and outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir
from onnxscript import GraphBuilder, nn

from qvl_runtime.manifest import Port

from ..families.spec import ModelSpec, TextSpec
from ..quant.qtensor import Layout
from ..targets import Cache, Target, WindowInputs
from .experts import ExpertWeight
from .layers import Embedding, Linear
from .quantized import quantize
from .text import DecoderLayer, Deepstack, Llm, LlmInputs, mrope
from .vision import VisionInputs, VisionTower

FLOAT, INT64, INT32 = ir.DataType.FLOAT, ir.DataType.INT64, ir.DataType.INT32
Axes = list[int | str]


@dataclass(frozen=True)
class Graph:
    """A model without weights: its initializers of types `Weight` and `Packed` are still to be filled.

    `layouts` are the forms of its quantized linears, one each.
    """

    name: str
    model: ir.Model
    layouts: tuple[Layout, ...] = ()

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
    return ir.Graph([], [], nodes=[], opset_imports=dict(target.opsets), name=name)


def build_vision(spec: ModelSpec, target: Target, layouts: Mapping[str, Layout] | None = None) -> Graph:
    """Pixels, patch positions and what the tower needs of windows and interpolation → `image_features`.

    With DeepStack also `deepstack_features.N`, N counting layers of the language model.
    """
    graph, image = _empty("vision", target), spec.image
    inputs = VisionInputs(
        _input(graph, "pixel_values", FLOAT, ["frames", "patches", image.patch_dim]),
        _input(graph, "patch_positions", INT64, ["frames", "patches", 2]),
    )
    if image.window:
        windows = WindowInputs(
            _input(graph, "window_gather", INT64, ["window_slots"]),
            _input(graph, "window_lengths", INT32, ["windows"]),
            _input(graph, "window_scatter", INT64, ["patches"]),
            (image.window * image.spatial_merge_size) ** 2,
        )
        inputs = inputs._replace(windows=windows)
    if image.position_table:
        indices = _input(graph, "interpolation_indices", INT64, [4, "patches"])
        weights = _input(graph, "interpolation_weights", FLOAT, [4, "patches"])
        inputs = inputs._replace(interpolation=(indices, weights))
    kernel = [len(image.image_mean), image.temporal_patch_size, image.patch_size, image.patch_size]
    tower = VisionTower(target, spec.vision, kernel)
    used = quantize(tower, "visual", layouts or {})
    features = tower(GraphBuilder(graph).op, inputs)
    names = ["image_features", *_deepstack_names(spec.text)]
    for name, value in zip(names, features, strict=True):
        _output(graph, value, name, ["image_tokens", spec.text.hidden_size])
    return Graph("vision", ir.Model(graph, ir_version=target.ir_version), used)


def _deepstack_names(spec: TextSpec) -> list[str]:
    return [f"deepstack_features.{index}" for index in range(spec.deepstack_layers)]


def build_decoder_layer(
    spec: TextSpec, target: Target, index: int, layouts: Mapping[str, Layout] | None = None
) -> tuple[Graph, dict[str, list[str]]]:
    """One decoder layer on its own, for calibration: `hidden`, positions and an empty cache → `hidden_out`.

    A layer with DeepStack takes `deepstack_features` and `image_positions` too. Also outputs what its float linears are
    applied to, each value once; the second result names the linears of each.
    """
    graph = _empty(f"layer{index}", target)
    hidden = _input(graph, "hidden", FLOAT, [1, "sequence", spec.hidden_size])
    position_ids = _input(graph, "position_ids", INT64, [3, 1, "sequence"])
    filled = _input(graph, "seqlens_k", INT32, [1]), _input(graph, "total_sequence_length", INT32, [])
    past: Axes = [1, spec.num_key_value_heads, "past", spec.head_dim]
    cache = Cache(_input(graph, "past_key", FLOAT, past), _input(graph, "past_value", FLOAT, past), *filled)
    deepstack = None
    if index < spec.deepstack_layers:
        deepstack = Deepstack(
            _input(graph, "deepstack_features", FLOAT, ["image_tokens", spec.hidden_size]),
            _input(graph, "image_positions", INT64, ["image_tokens", 2]),
        )
    name = f"model.layers.{index}"
    layer = DecoderLayer(target, spec, index, name)
    used = quantize(layer, name, layouts or {})
    op = GraphBuilder(graph).op
    x, delta, _ = layer(op, hidden, None, mrope(op, spec, position_ids), cache, deepstack)
    _output(graph, op.Add(x, delta), "hidden_out", [1, "sequence", spec.hidden_size])
    taps = _tap(graph, layer, name)
    return Graph(f"layer{index}", ir.Model(graph, ir_version=target.ir_version), used), taps


def llm_weights(spec: TextSpec, target: Target) -> dict[str, tuple[int, int]]:
    """Every linear of the language model, its embedding and its experts by name, and their shapes [outputs, inputs].

    The matrices of experts lie below one another.
    """
    llm = Llm(target, spec)
    linears = {
        name: module.weight.source_shape
        for name, module in llm.named_modules()
        if isinstance(module, Linear | Embedding)
    }
    experts = {name: value.source_shape for name, value in llm.named_parameters() if isinstance(value, ExpertWeight)}
    return {name: (math.prod(shape[:-1]), shape[-1]) for name, shape in (linears | experts).items()}


def _tap(graph: ir.Graph, module: nn.Module, prefix: str) -> dict[str, list[str]]:
    """Make the inputs of all float linears outputs of the graph; returns output name → linears that share it."""
    taps: dict[str, list[str]] = {}
    for name, linear in module.named_modules(prefix):
        if isinstance(linear, Linear):
            value = linear.input
            assert value.name is not None
            if value.name not in taps:
                _output(graph, value, value.name, [1, "sequence", linear.weight.source_shape[1]])
            taps.setdefault(value.name, []).append(name)
    return taps


def build_llm(spec: ModelSpec, target: Target, layouts: Mapping[str, Layout] | None = None) -> Graph:
    """Tokens, positions, image features and past → `logits` at the asked positions, and present."""
    graph, text = _empty("llm", target), spec.text
    inputs = LlmInputs(
        _input(graph, "input_ids", INT64, [1, "sequence"]),
        _input(graph, "position_ids", INT64, [3, 1, "sequence"]),
        _input(graph, "image_features", FLOAT, ["image_tokens", text.hidden_size]),
        _input(graph, "image_positions", INT64, ["image_tokens", 2]),
        _input(graph, "logits_positions", INT64, ["wanted"]),
        tuple(_input(graph, name, FLOAT, ["image_tokens", text.hidden_size]) for name in _deepstack_names(text)),
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
    llm = Llm(target, text)
    used = quantize(llm, "", layouts or {})
    logits, presents = llm(GraphBuilder(graph).op, inputs, caches)
    _output(graph, logits, "logits", [1, "wanted", text.vocab_size])
    present: Axes = [1, text.num_key_value_heads, "total", text.head_dim]
    for index, pair in enumerate(presents):
        for part, value in zip(("key", "value"), pair, strict=True):
            _output(graph, value, f"present.{index}.{part}", present)
    return Graph("llm", ir.Model(graph, ir_version=target.ir_version), used)
