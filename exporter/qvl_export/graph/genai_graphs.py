"""The network as three graphs, `vision`, `embedding` and `text`, for hosts that compute no indices.

Names and shapes of inputs and outputs follow ONNX Runtime GenAI. DeepStack features are part of each row, which has
(1 + D) · hidden numbers: the embedding, then the D features of an image token, or zeros for a text token. A host that
reads only widths thus passes them on. Batch size 1, one image per run.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir
from onnxscript import GraphBuilder, OpBuilder, nn

from ..families.spec import ModelSpec, TextSpec
from ..qtensor import QuantFormat
from ..targets import Target
from . import grid_indices as indices
from .build import (
    FLOAT,
    INT32,
    INT64,
    Graph,
    add_cache,
    add_input,
    add_output,
    add_presents,
    cache_specs,
    empty_graph,
    finished,
    patch_kernel,
)
from .layers import Embedding, Linear
from .quantized import quantize
from .text import EmbeddedInputs, Llm
from .vision import VisionInputs, VisionTower

Formats = Mapping[str, QuantFormat]
TABLE = "model.embed_tokens"


def row_width(spec: TextSpec) -> int:
    """The width of a row of features or embeddings."""
    return (1 + spec.deepstack_layers) * spec.hidden_size


def build(spec: ModelSpec, vision: Target, text: Target, formats: Formats) -> list[Graph]:
    """Builds all three graphs; together they have the parameters of `build.build_vision` and `build.build_llm`."""
    return [
        build_vision(spec, vision, formats),
        build_embedding(spec, text, formats),
        build_text(spec.text, text, formats),
    ]


def build_vision(spec: ModelSpec, target: Target, formats: Formats) -> Graph:
    """`pixel_values` [patches, C·T·P·P] and `image_grid_thw` [1, 3] → `image_features` [image_tokens, row]."""
    graph, image = empty_graph("vision", target), spec.image
    patches = add_input(graph, "pixel_values", FLOAT, ["patches", image.patch_dim])
    image_grid_thw = add_input(graph, "image_grid_thw", INT64, [1, 3])
    op = GraphBuilder(graph).op
    grid = indices.grid_of(op, image_grid_thw)
    coordinates = indices.patch_coordinates(op, grid, image.spatial_merge_size)
    frames = op.Concat(op.Unsqueeze(grid.t, [0]), [-1, image.patch_dim], axis=0)
    inputs = VisionInputs(
        op.Reshape(patches, frames),
        indices.patch_positions(op, grid, coordinates),
        indices.windows(op, grid, image),
        indices.interpolation(op, grid, coordinates, image),
    )
    tower = VisionTower(target, spec.vision, patch_kernel(image))
    used = quantize(tower, "visual", formats)
    features = op.Concat(*tower(op, inputs), axis=-1)
    add_output(graph, features, "image_features", ["image_tokens", row_width(spec.text)])
    return Graph("vision", finished(graph, target), used)


class _Embedder(nn.Module):
    """`model.embed_tokens` of the checkpoint, and the splice."""

    def __init__(self, target: Target, spec: TextSpec) -> None:
        super().__init__("model")
        self.spec = spec
        self.embed_tokens = Embedding(target, spec.vocab_size, spec.hidden_size)

    def forward(self, op: OpBuilder, input_ids: ir.Value, image_features: ir.Value, image_token: int) -> ir.Value:
        """Puts features at a prompt's image tokens; an image token in an answer has none and keeps its embedding."""
        rows = self.embed_tokens(op, input_ids)
        if missing := row_width(self.spec) - self.spec.hidden_size:
            rows = op.Pad(rows, [0, 0, 0, 0, 0, missing])
        positions = op.Transpose(op.NonZero(op.Equal(input_ids, image_token)), perm=[1, 0])
        positions = op.Slice(positions, [0], op.Shape(image_features, start=0, end=1), [0])
        return op.ScatterND(rows, positions, image_features)


def build_embedding(spec: ModelSpec, target: Target, formats: Formats) -> Graph:
    """`input_ids` [1, sequence] and `image_features` [image_tokens, row] → `inputs_embeds` [1, sequence, row]."""
    graph, width = empty_graph("embedding", target), row_width(spec.text)
    input_ids = add_input(graph, "input_ids", INT64, [1, "sequence"])
    features = add_input(graph, "image_features", FLOAT, ["image_tokens", width])
    embedder = _Embedder(target, spec.text)
    used = quantize(embedder, "model", formats)
    embeds = embedder(GraphBuilder(graph).op, input_ids, features, spec.tokens.image)
    add_output(graph, embeds, "inputs_embeds", [1, "sequence", width])
    return Graph("embedding", finished(graph, target), used)


class _Text(Llm):
    """Decoder and head; a tied head is a linear with the table's name, because the embedding is in another graph."""

    def __init__(self, target: Target, spec: TextSpec) -> None:
        super().__init__(target, spec)
        if self.lm_head is None:
            setattr(self, TABLE, Linear(target, spec.hidden_size, spec.vocab_size, bias=False))

    def head(self, op: OpBuilder, y: ir.Value) -> ir.Value:
        if self.lm_head is None:
            return getattr(self, TABLE)(op, y)
        return self.lm_head(op, y)


def _cache_state(op: OpBuilder, attention_mask: ir.Value) -> dict[str, ir.Value]:
    """The `cache_inputs` of ONNX Runtime's attention, from the length of a mask [1, past + sequence]."""
    total = op.Cast(op.Shape(attention_mask, start=1, end=2), to=INT32)
    last = op.Sub(total, op.Constant(value=ir.tensor([1], ir.DataType.INT32)))
    return {"seqlens_k": last, "total_sequence_length": op.Squeeze(total, [0])}


def _columns(op: OpBuilder, rows: ir.Value, parts: int) -> list[ir.Value]:
    """Splits rows into embeddings and the DeepStack features, if there are any."""
    return list(op.Split(rows, axis=-1, num_outputs=parts, _outputs=parts)) if parts > 1 else [rows]


def build_text(spec: TextSpec, target: Target, formats: Formats) -> Graph:
    """Embeddings [1, sequence, row], `attention_mask` [1, past + sequence], positions and past → `logits` [1, 1, V].

    The logits are those of the last token. Only the mask's length is used, as the number of tokens: a batch of one has
    no padding.
    """
    graph = empty_graph("text", target)
    inputs_embeds = add_input(graph, "inputs_embeds", FLOAT, [1, "sequence", row_width(spec)])
    attention_mask = add_input(graph, "attention_mask", INT64, [1, "tokens"])
    position_ids = add_input(graph, "position_ids", INT64, [3, 1, "sequence"])
    op = GraphBuilder(graph).op
    state = _cache_state(op, attention_mask)
    specs = cache_specs(spec, target)
    caches = [add_cache(graph, kept, state) for kept in specs]
    x, *deepstack = _columns(op, inputs_embeds, 1 + spec.deepstack_layers)
    inputs = EmbeddedInputs(x, position_ids, op.Constant(value_ints=[-1]), tuple(deepstack))
    model = _Text(target, spec)
    used = quantize(model, "", formats)
    logits, presents = model(op, inputs, caches)
    add_output(graph, logits, "logits", [1, 1, spec.vocab_size])
    add_presents(graph, specs, presents)
    return Graph("text", finished(graph, target), used)
