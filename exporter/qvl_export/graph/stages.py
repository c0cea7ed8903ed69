"""One step of a tower on its own, for calibration: hidden states in, hidden states out, and what its linears see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir
from onnxscript import GraphBuilder, nn

from ..families.spec import ModelSpec, TextSpec, VisionSpec
from ..quant.qtensor import Layout
from ..targets import Cache, Target
from .build import FLOAT, INT32, INT64, Axes, Graph, add_input, add_output, empty_graph, patch_kernel, vision_layout
from .folds import Fold
from .layers import Linear
from .quantized import quantize
from .text import DecoderLayer, mrope
from .vision import PatchEmbed, PatchMerger, VisionBlock, patch_rope

PATCH_EMBED, MERGER = "visual.patch_embed", "visual.merger"
Layouts = Mapping[str, Layout]


@dataclass(frozen=True)
class Stage:
    """A graph `hidden`, … → `hidden_out`, whose other outputs are what its float linears are applied to.

    `taps` names the linears of each such output, `folds` where scales of their inputs can go.
    """

    graph: Graph
    taps: Mapping[str, list[str]]
    folds: tuple[Fold, ...] = ()


def vision_stages(spec: VisionSpec) -> list[str]:
    """Names of the stages of a vision tower, in order."""
    return [PATCH_EMBED, *(f"visual.blocks.{index}" for index in range(spec.depth)), MERGER]


def decoder_stages(spec: TextSpec) -> list[str]:
    """Names of the stages of a language model, embedding and head left out."""
    return [f"model.layers.{index}" for index in range(spec.num_layers)]


def decoder_stage(spec: TextSpec, target: Target, name: str, layouts: Layouts | None = None) -> Stage:
    """One decoder layer: `hidden` [1, S, H], positions and an empty cache → `hidden_out`."""
    graph = empty_graph(name, target)
    hidden = add_input(graph, "hidden", FLOAT, [1, "sequence", spec.hidden_size])
    position_ids = add_input(graph, "position_ids", INT64, [3, 1, "sequence"])
    filled = add_input(graph, "seqlens_k", INT32, [1]), add_input(graph, "total_sequence_length", INT32, [])
    past: Axes = [1, spec.num_key_value_heads, "past", spec.head_dim]
    cache = Cache(add_input(graph, "past_key", FLOAT, past), add_input(graph, "past_value", FLOAT, past), *filled)
    layer = DecoderLayer(target, spec, int(name.rsplit(".", 1)[1]), name)
    used = quantize(layer, name, layouts or {})
    op = GraphBuilder(graph).op
    x, delta, _ = layer(op, hidden, None, mrope(op, spec, position_ids), cache)
    return _finish(graph, target, layer, op.Add(x, delta), used, layer.folds())


def vision_stage(spec: ModelSpec, target: Target, name: str, layouts: Layouts | None = None) -> Stage:
    """Patch embedding, block or merger: `hidden` [frames, patches, …] and positions → `hidden_out`."""
    graph, vision = empty_graph(name, target), spec.vision
    width = spec.image.patch_dim if name == PATCH_EMBED else vision.hidden_size
    hidden = add_input(graph, "hidden", FLOAT, ["frames", "patches", width])
    positions, windows = vision_layout(graph, spec.image)
    op = GraphBuilder(graph).op
    module: PatchEmbed | PatchMerger | VisionBlock
    if name == PATCH_EMBED:
        module = PatchEmbed(target, vision, patch_kernel(spec.image), name)
        used, y = quantize(module, name, layouts or {}), module(op, hidden)
    elif name == MERGER:
        module = PatchMerger(target, vision, name)
        used, y = quantize(module, name, layouts or {}), module(op, hidden, None)
    else:
        module = VisionBlock(target, vision, int(name.rsplit(".", 1)[1]), name)
        used = quantize(module, name, layouts or {})
        y = op.Add(*module(op, hidden, None, patch_rope(op, vision, positions), windows))
    return _finish(graph, target, module, y, used, () if isinstance(module, PatchEmbed) else module.folds())


def _finish(
    graph: ir.Graph,
    target: Target,
    module: nn.Module,
    y: ir.Value,
    used: tuple[Layout, ...],
    folds: tuple[Fold, ...],
) -> Stage:
    add_output(graph, y, "hidden_out", None)
    taps = _tap(graph, module)
    return Stage(Graph(graph.name or "", ir.Model(graph, ir_version=target.ir_version), used), taps, folds)


def _tap(graph: ir.Graph, module: nn.Module) -> dict[str, list[str]]:
    """Make the inputs of all float linears outputs of the graph, each value once."""
    taps: dict[str, list[str]] = {}
    for name, linear in module.named_modules(module.name or ""):
        if isinstance(linear, Linear):
            value = linear.input
            assert value.name is not None
            if value.name not in taps:
                add_output(graph, value, value.name, None)
            taps.setdefault(value.name, []).append(name)
    return taps
