"""Graphs of single stages of a tower, for calibration: hidden states in, hidden states and linears' inputs out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import onnx_ir as ir
from onnxscript import GraphBuilder, OpBuilder, nn

from ..families.spec import ModelSpec, TextSpec, VisionSpec
from ..qtensor import QuantFormat
from ..targets import Target
from .build import (
    FLOAT,
    INT64,
    Graph,
    add_cache,
    add_cache_state,
    add_input,
    add_ntk_alpha,
    add_output,
    add_vision_inputs,
    cache_specs,
    empty_graph,
    finished,
    patch_kernel,
    text_target,
)
from .experts import Experts, ExpertWeight, SparseMlp
from .layers import AddNorm, Embedding, Linear
from .quantized import quantize
from .rope import mrope
from .scale_folds import Fold
from .text import DecoderLayer, Deepstack
from .vision import DeepstackMerger, VisionBlock, embed, image_merger, patch_embed, patch_rope, position_table

PATCH_EMBED, POSITIONS = "visual.patch_embed", "visual.pos_embed"
MERGER, DEEPSTACK = "visual.merger", "visual.deepstack_merger_list"
Formats = Mapping[str, QuantFormat]
M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Stage:
    """A graph `hidden`, … → `hidden_out`, whose other outputs are the inputs of its float linears.

    `taps` names the linears of each such output, `folds` are the folds of their input scales. `routed` names the
    outputs with the input of float experts, [1, tokens, hidden], and the router's scores.
    """

    graph: Graph
    taps: Mapping[str, list[str]]
    folds: tuple[Fold, ...] = ()
    routed: tuple[str, str] | None = None

    @property
    def linears(self) -> list[str]:
        """The names of the float linears, in the order of their inputs."""
        return [name for names in self.taps.values() for name in names]

    @property
    def experts(self) -> dict[str, ExpertWeight]:
        """The float matrices of experts."""
        values = self.graph.model.graph.initializers.items()
        return {name: value for name, value in values if isinstance(value, ExpertWeight)}


def vision_stages(spec: VisionSpec) -> list[str]:
    """Names of the stages of a vision tower, in order."""
    return [PATCH_EMBED, *(f"visual.blocks.{index}" for index in range(spec.depth)), MERGER]


def decoder_stages(spec: TextSpec) -> list[str]:
    """Names of the stages of a language model, embedding and head left out."""
    return [f"model.layers.{index}" for index in range(spec.num_layers)]


def decoder_stage(spec: TextSpec, target: Target, name: str, formats: Formats | None = None) -> Stage:
    """One decoder layer: `hidden` [1, S, H], positions and an empty cache → `hidden_out`."""
    index = int(name.rsplit(".", 1)[1])
    target = text_target(spec, target)
    graph = empty_graph(name, target)
    hidden = add_input(graph, "hidden", FLOAT, [1, "sequence", spec.hidden_size])
    position_ids = add_input(graph, "position_ids", INT64, [3, 1, "sequence"])
    cache = add_cache(graph, cache_specs(spec, target)[index], add_cache_state(graph, target), "past_")
    deepstack = None
    if index < spec.deepstack_layers:
        features = add_input(graph, f"deepstack_features.{index}", FLOAT, ["image_tokens", spec.hidden_size])
        deepstack = Deepstack(features, add_input(graph, "image_positions", INT64, ["image_tokens", 2]))
    alpha = add_ntk_alpha(graph, spec)
    found, op = _Parts(formats or {}), GraphBuilder(graph).op
    layer = found.add(DecoderLayer(target, spec, index, name))
    x, delta, _ = layer(op, hidden, None, mrope(op, spec, position_ids, alpha), cache, deepstack)
    return found.stage(graph, target, op.Add(x, delta))


class _TiedHead(Embedding):
    """An embedding table that is used as the head only."""

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        return self.head(op, x)


def head_stage(spec: TextSpec, target: Target) -> Graph:
    """The graph after the last decoder layer: `hidden` [1, S, H], `logits_positions` [K] → `logits` [1, K, vocab]."""
    target = text_target(spec, target)
    graph = empty_graph("head", target)
    hidden = add_input(graph, "hidden", FLOAT, [1, "sequence", spec.hidden_size])
    wanted, op = add_input(graph, "logits_positions", INT64, ["wanted"]), GraphBuilder(graph).op
    norm = AddNorm(target, spec.hidden_size, "rms", spec.rms_norm_eps, "model.norm")
    y, _ = norm(op, op.Gather(hidden, wanted, axis=1))
    if spec.tied:
        logits = _TiedHead(target, spec.vocab_size, spec.hidden_size, "model.embed_tokens")(op, y)
    else:
        logits = Linear(target, spec.hidden_size, spec.vocab_size, bias=False, name="lm_head")(op, y)
    add_output(graph, logits, "logits", [1, "wanted", spec.vocab_size])
    return Graph("head", finished(graph, target))


def vision_stage(spec: ModelSpec, target: Target, name: str, formats: Formats | None = None) -> Stage:
    """Patch embedding, block or merger: `hidden` [frames, patches, …] and positions → `hidden_out`."""
    graph, vision = empty_graph(name, target), spec.vision
    width = spec.image.patch_dim if name == PATCH_EMBED else vision.hidden_size
    inputs = add_vision_inputs(graph, spec.image, "hidden", ["frames", "patches", width])
    op, found = GraphBuilder(graph).op, _Parts(formats or {})
    if name == PATCH_EMBED:
        patches = found.add(patch_embed(target, vision, patch_kernel(spec.image), name))
        return found.stage(graph, target, embed(op, patches, position_table(target, vision, POSITIONS), inputs))
    if name == MERGER:
        merger = found.add(image_merger(target, vision, name))
        return found.stage(graph, target, merger(op, inputs.pixel_values, None))
    index = int(name.rsplit(".", 1)[1])
    block = found.add(VisionBlock(target, vision, index, name))
    rope = patch_rope(op, vision, inputs.patch_positions)
    y = op.Add(*block(op, inputs.pixel_values, None, rope, inputs.windows))
    if index in vision.deepstack_blocks:
        number = vision.deepstack_blocks.index(index)
        found.add(DeepstackMerger(target, vision, f"{DEEPSTACK}.{number}"))(op, y)
    return found.stage(graph, target, y)


@dataclass
class _Parts:
    """The modules of a stage, quantized as they are added."""

    formats: Formats
    modules: list[nn.Module] = field(default_factory=list)
    used: dict[str, QuantFormat] = field(default_factory=dict)

    def add(self, module: M) -> M:
        self.used |= quantize(module, module.name or "", self.formats)
        self.modules.append(module)
        return module

    def stage(self, graph: ir.Graph, target: Target, y: ir.Value) -> Stage:
        """Returns the finished stage, with `y` as its output hidden states."""
        add_output(graph, y, "hidden_out", None)
        taps = _tap(graph, self.modules)
        folds = tuple(fold for module in self.modules if hasattr(module, "folds") for fold in module.folds())
        model = finished(graph, target)
        return Stage(Graph(graph.name or "", model, self.used), taps, folds, _routed(graph, self.modules))


def _routed(graph: ir.Graph, modules: list[nn.Module]) -> tuple[str, str] | None:
    """Makes the input of float experts and the router's scores outputs of the graph, and returns their names."""
    for module in modules:
        for _, part in module.named_modules():
            if isinstance(part, SparseMlp) and isinstance(part.experts, Experts):
                values = part.gate.input, part.gate.scores
                for value in values:
                    assert value.name is not None
                    add_output(graph, value, value.name, None)
                return str(values[0].name), str(values[1].name)
    return None


def _tap(graph: ir.Graph, modules: list[nn.Module]) -> dict[str, list[str]]:
    """Makes the inputs of all float linears outputs of the graph, each value once; returns the linears of each."""
    taps: dict[str, list[str]] = {}
    linears = (pair for module in modules for pair in module.named_modules(module.name or ""))
    for name, linear in linears:
        if isinstance(linear, Linear):
            value = linear.input
            assert value.name is not None
            if value.name not in taps:
                add_output(graph, value, value.name, None)
            taps.setdefault(value.name, []).append(name)
    return taps
