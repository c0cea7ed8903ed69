"""Builds the two ONNX graphs from a spec, with their contract: names, types and axes of inputs and outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass, RemoveUnusedNodesPass
from onnxscript import GraphBuilder

from qvl_runtime.manifest import CacheSpec, ImageGeometry, Port, cache_tensor

from ..families.spec import ModelSpec, TextSpec
from ..qtensor import QuantFormat
from ..targets import PAST, Cache, RecurrentState, Target, WindowInputs
from .experts import ExpertWeight
from .layers import Embedding, Linear
from .quantized import quantize
from .text import Llm, LlmInputs
from .vision import VisionInputs, VisionTower

FLOAT, INT64, INT32 = ir.DataType.FLOAT, ir.DataType.INT64, ir.DataType.INT32
Axes = list[int | str]
NAMED_CONSTANTS = 20
"""The last opset of standard ONNX whose constants are initializers: converters of that age fail on Constant nodes."""


@dataclass(frozen=True)
class Graph:
    """A model without weights: its initializers of types `Weight` and `Packed` have no values yet.

    `formats` holds the formats of its quantized linears by name.
    """

    name: str
    model: ir.Model
    formats: Mapping[str, QuantFormat] = field(default_factory=dict)

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


def add_input(graph: ir.Graph, name: str, dtype: ir.DataType, axes: Axes) -> ir.Value:
    value = ir.Input(name, shape=ir.Shape(axes), type=ir.TensorType(dtype))
    graph.inputs.append(value)
    return value


def add_output(graph: ir.Graph, value: ir.Value, name: str, axes: Axes | None, dtype: ir.DataType = FLOAT) -> None:
    """Adds an output; without `axes`, its shape is left to the engine's inference."""
    value.name, value.type = name, ir.TensorType(dtype)
    value.shape = None if axes is None else ir.Shape(axes)
    graph.outputs.append(value)


def add_ntk_alpha(graph: ir.Graph, spec: TextSpec) -> ir.Value | None:
    """Adds the factor by which long prompts enlarge the RoPE base, if the model has dynamic NTK."""
    return add_input(graph, "ntk_alpha", FLOAT, [1]) if spec.ntk_length else None


def add_cache_state(graph: ir.Graph, target: Target, capacity: int | str = PAST) -> dict[str, ir.Value]:
    """Adds the target's inputs that say how far the cache is filled."""
    return {
        name: add_input(graph, name, dtype, [capacity if axis == PAST else axis for axis in axes])
        for name, dtype, axes in target.cache_inputs
    }


def cache_specs(spec: TextSpec, target: Target, capacity: int | Literal["past"] = PAST) -> list[CacheSpec]:
    """What each layer keeps between calls: keys and values of `capacity` tokens, or the state of linear attention."""
    shape: list[int | Literal["past"]] = [1, spec.num_key_value_heads, capacity, spec.head_dim]
    floats: Literal["float", "float16"] = "float" if target.cache_type == FLOAT else "float16"
    linear, found = spec.linear_attention, []
    for index in range(spec.num_layers):
        if linear and index in linear.layers:
            states = [cache_tensor(index, name, "float", [*dims]) for name, dims in target.state_shapes(linear).items()]
            found.append(CacheSpec(kind="recurrent", tensors=states))
        else:
            pair = [cache_tensor(index, part, floats, shape) for part in ("key", "value")]
            found.append(CacheSpec(kind="kv", tensors=pair))
    return found


def bundle_cache(spec: ModelSpec, target: Target) -> list[CacheSpec]:
    """What the layers of the `llm` graph keep; engines have room for the maximum length from the start."""
    return cache_specs(spec.text, target, spec.max_positions if target.static_cache else PAST)


def add_cache(
    graph: ir.Graph, spec: CacheSpec, state: Mapping[str, ir.Value], prefix: str | None = None
) -> Cache | RecurrentState:
    """Adds the inputs of what one layer keeps, called as in the bundle or `prefix` and the last part of that name."""
    values = []
    for tensor in spec.tensors:
        name = tensor.past if prefix is None else f"{prefix}{tensor.past.rpartition('.')[2]}"
        values.append(add_input(graph, name, ir.DataType[tensor.dtype.upper()], [*tensor.shape]))
    first, second = values
    return Cache(first, second, state) if spec.kind == "kv" else RecurrentState(first, second)


def add_presents(graph: ir.Graph, specs: Sequence[CacheSpec], presents: Sequence[tuple[ir.Value, ir.Value]]) -> None:
    """Adds what every layer keeps after the call as outputs."""
    for spec, values in zip(specs, presents, strict=True):
        for tensor, value in zip(spec.tensors, values, strict=True):
            axes: Axes = ["total" if axis == PAST else axis for axis in tensor.shape]
            add_output(graph, value, tensor.present, axes, ir.DataType[tensor.dtype.upper()])


def add_vision_inputs(graph: ir.Graph, image: ImageGeometry, name: str, axes: Axes) -> VisionInputs:
    """Adds pixels or hidden states as input `name`, and the inputs for positions, windows and interpolation."""
    pixels = add_input(graph, name, FLOAT, axes)
    inputs = VisionInputs(pixels)
    if not image.queries:
        inputs = inputs._replace(patch_positions=add_input(graph, "patch_positions", INT64, ["frames", "patches", 2]))
    if image.window:
        windows = WindowInputs(
            add_input(graph, "window_gather", INT64, ["window_slots"]),
            add_input(graph, "window_lengths", INT32, ["windows"]),
            add_input(graph, "window_scatter", INT64, ["patches"]),
            (image.window * image.spatial_merge_size) ** 2,
        )
        inputs = inputs._replace(windows=windows)
    if image.position_table:
        indices = add_input(graph, "interpolation_indices", INT64, [4, "patches"])
        weights = add_input(graph, "interpolation_weights", FLOAT, [4, "patches"])
        inputs = inputs._replace(interpolation=(indices, weights))
    return inputs


def patch_kernel(image: ImageGeometry) -> list[int]:
    """Kernel shape, without outputs, of the convolution that the checkpoint stores as patch embedding."""
    return [len(image.image_mean), image.temporal_patch_size, image.patch_size, image.patch_size]


def empty_graph(name: str, target: Target) -> ir.Graph:
    """An empty graph with the target's operator sets."""
    return ir.Graph([], [], nodes=[], opset_imports=dict(target.opsets), name=name)


def text_target(spec: TextSpec, target: Target) -> Target:
    """The target as it builds this language model."""
    return target.for_linear_attention() if spec.recurrent_layers else target


def finished(graph: ir.Graph, target: Target) -> ir.Model:
    """Returns the model of a complete graph.

    Unused nodes, which ONNX Runtime would compute, and what the graph builder notes about its modules are removed.
    """
    model = ir.Model(graph, ir_version=target.ir_version)
    RemoveUnusedNodesPass()(model)
    if all(domain == "" and opset <= NAMED_CONSTANTS for domain, opset in target.opsets):
        LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    for node in ir.traversal.RecursiveGraphIterator(graph):
        for key in [key for key in node.metadata_props if key == "namespace" or key.startswith("pkg.onnxscript.")]:
            del node.metadata_props[key]  # names of our classes, and its failed inferences
    return model


def build_vision(spec: ModelSpec, target: Target, formats: Mapping[str, QuantFormat] | None = None) -> Graph:
    """Builds the graph: pixels, patch positions, inputs for windows and interpolation → `image_features`.

    With DeepStack it also has outputs `deepstack_features.N`, where N is a layer of the language model.
    """
    graph, image = empty_graph("vision", target), spec.image
    inputs = add_vision_inputs(graph, image, "pixel_values", ["frames", "patches", image.patch_dim])
    tower = VisionTower(target, spec.vision, patch_kernel(image))
    used = quantize(tower, "visual", formats or {})
    features = tower(GraphBuilder(graph).op, inputs)
    names = ["image_features", *deepstack_names(spec.text)]
    for name, value in zip(names, features, strict=True):
        add_output(graph, value, name, ["image_tokens", spec.text.hidden_size])
    return Graph("vision", finished(graph, target), used)


def deepstack_names(spec: TextSpec) -> list[str]:
    """Names of the features for the language model's first layers, in the order of the layers."""
    return [f"deepstack_features.{index}" for index in range(spec.deepstack_layers)]


def llm_weights(spec: TextSpec, target: Target) -> dict[str, tuple[int, int]]:
    """Shapes [outputs, inputs] of every linear of the language model, its embedding and its experts, by name.

    The matrices of experts are stacked along the outputs.
    """
    llm = Llm(target, spec)
    linears = {
        name: module.weight.source_shape
        for name, module in llm.named_modules()
        if isinstance(module, Linear | Embedding)
    }
    experts = {name: value.source_shape for name, value in llm.named_parameters() if isinstance(value, ExpertWeight)}
    return {name: (math.prod(shape[:-1]), shape[-1]) for name, shape in (linears | experts).items()}


def build_llm(
    spec: ModelSpec, target: Target, formats: Mapping[str, QuantFormat] | None = None, name: str = "llm"
) -> Graph:
    """Builds the graph: tokens, positions, image features and past → `logits` at `logits_positions`, and present."""
    text, target = spec.text, text_target(spec.text, target)
    graph, specs = empty_graph(name, target), bundle_cache(spec, target)
    inputs = LlmInputs(
        add_input(graph, "input_ids", INT64, [1, "sequence"]),
        add_input(graph, "position_ids", INT64, [3, 1, "sequence"]),
        add_input(graph, "image_features", FLOAT, ["image_tokens", text.hidden_size]),
        add_input(graph, "image_positions", INT64, ["image_tokens", 2]),
        add_input(graph, "logits_positions", INT64, ["wanted"]),
        tuple(add_input(graph, name, FLOAT, ["image_tokens", text.hidden_size]) for name in deepstack_names(text)),
        add_ntk_alpha(graph, text),
    )
    state = add_cache_state(graph, target, spec.max_positions if target.static_cache else PAST)
    caches = [add_cache(graph, kept, state) for kept in specs]
    llm = Llm(target, text)
    used = quantize(llm, "", formats or {})
    logits, presents = llm(GraphBuilder(graph).op, inputs, caches)
    add_output(graph, logits, "logits", [1, "wanted", text.vocab_size])
    add_presents(graph, specs, presents)
    return Graph(name, finished(graph, target), used)
