"""The `llm` graph: token ids, image features and the KV cache → logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import onnx_ir as ir
from onnxscript import OpBuilder, nn

from ..families.spec import TextSpec
from ..targets import Cache, RecurrentState, Target
from .experts import SparseMlp
from .layers import AddNorm, Embedding, GatedMlp, Linear, Weight
from .linear_attention import GatedDeltaNet
from .rope import Rope, mrope
from .scale_folds import Fold

HEAD_ROTATION = "head_rotation"
"""The linear that rotates hidden states back for a tied head."""


class Deepstack(NamedTuple):
    """Image features that a layer adds to its stream: [N, hidden] at positions [N, 2], or [1, S, hidden] for all."""

    features: ir.Value
    positions: ir.Value | None

    def add(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        if self.positions is None:
            return op.Add(x, self.features)
        before = op.GatherND(x, self.positions)  # TensorRT's ScatterND does not add
        return op.ScatterND(x, self.positions, op.Add(before, self.features))


class HeadNorm(nn.Module):
    """RMSNorm per head; [1, tokens, heads · head_dim] keeps its shape."""

    def __init__(self, target: Target, spec: TextSpec) -> None:
        super().__init__()
        self.target, self.head_dim, self.eps = target, spec.head_dim, spec.rms_norm_eps
        self.weight = Weight([spec.head_dim], ir.DataType.FLOAT)

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        heads = op.Reshape(x, op.Constant(value_ints=[0, 0, -1, self.head_dim]))
        y, _ = self.target.rms_norm(op, heads, None, self.weight, self.eps)
        return op.Reshape(y, op.Constant(value_ints=[0, 0, -1]))


class Attention(nn.Module):
    """Grouped-query attention; q, k and v may have a bias (Qwen2), q and k a norm per head (Qwen3); o has no bias.

    With an output gate (Qwen3.5), the rows of each head in `q_proj` are those of its query and then of its gate.
    """

    def __init__(self, target: Target, spec: TextSpec) -> None:
        super().__init__()
        self.target, self.heads, self.kv_heads = target, spec.num_heads, spec.num_key_value_heads
        self.head_dim, self.rotary_dim, self.gated = spec.head_dim, spec.rotary_dim, spec.output_gate
        queries = self.heads * spec.head_dim * (2 if self.gated else 1)
        self.q_proj = Linear(target, spec.hidden_size, queries, spec.qkv_bias)
        self.k_proj = Linear(target, spec.hidden_size, self.kv_heads * spec.head_dim, spec.qkv_bias)
        self.v_proj = Linear(target, spec.hidden_size, self.kv_heads * spec.head_dim, spec.qkv_bias)
        self.o_proj = Linear(target, self.heads * spec.head_dim, spec.hidden_size, bias=False)
        self.q_norm = HeadNorm(target, spec) if spec.qk_norm else None
        self.k_norm = HeadNorm(target, spec) if spec.qk_norm else None

    def forward(
        self, op: OpBuilder, x: ir.Value, rope: Rope, cache: Cache
    ) -> tuple[ir.Value, tuple[ir.Value, ir.Value]]:
        q, gate = self._query_and_gate(op, self.q_proj(op, x))
        k = self.k_proj(op, x)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(op, q), self.k_norm(op, k)
        q = self.target.rotary(op, q, rope.cos, rope.sin, self.heads, self.rotary_dim)
        k = self.target.rotary(op, k, rope.cos, rope.sin, self.kv_heads, self.rotary_dim)
        if rope.query_scale is not None:
            q = op.Mul(q, rope.query_scale)
        y, key, value = self.target.causal_attention(op, q, k, self.v_proj(op, x), cache, self.heads, self.kv_heads)
        if gate is not None:
            y = op.Mul(y, op.Sigmoid(gate))
        return self.o_proj(op, y), (key, value)

    def _query_and_gate(self, op: OpBuilder, q: ir.Value) -> tuple[ir.Value, ir.Value | None]:
        """The queries and the gate of every head, each [1, tokens, heads · head_dim]."""
        if not self.gated:
            return q, None
        pairs = op.Reshape(q, op.Constant(value_ints=[0, 0, self.heads, 2 * self.head_dim]))
        query, gate = (
            op.Reshape(part, op.Constant(value_ints=[0, 0, -1]))
            for part in op.Split(pairs, axis=-1, num_outputs=2, _outputs=2)
        )
        return query, gate

    def value_channels(self) -> np.ndarray:
        """The output of `v_proj` that each input channel of `o_proj` averages, [heads · head_dim]."""
        values = np.arange(self.v_proj.rows).reshape(self.kv_heads, 1, -1)
        return np.asarray(np.repeat(values, self.heads // self.kv_heads, axis=1).reshape(-1))


class DecoderLayer(nn.Module):
    """Pre-norm attention, full or linear, and MLP; takes and returns the residual stream and its pending addend."""

    def __init__(self, target: Target, spec: TextSpec, index: int, name: str | None = None) -> None:
        super().__init__(name)
        self.index = index
        self.input_layernorm = AddNorm(target, spec.hidden_size, "rms", spec.rms_norm_eps)
        self.post_attention_layernorm = AddNorm(target, spec.hidden_size, "rms", spec.rms_norm_eps)
        recurrent = index in spec.recurrent_layers
        self.linear_attn = GatedDeltaNet(target, spec) if recurrent else None
        self.self_attn = None if recurrent else Attention(target, spec)
        self.mlp = (
            GatedMlp(target, spec.hidden_size, spec.intermediate_size, "silu", bias=False)
            if spec.moe is None or index in spec.moe.dense_layers
            else SparseMlp(target, spec.hidden_size, spec.moe)
        )

    def forward(
        self,
        op: OpBuilder,
        x: ir.Value,
        delta: ir.Value | None,
        rope: Rope,
        cache: Cache | RecurrentState,
        deepstack: Deepstack | None = None,
    ) -> tuple[ir.Value, ir.Value, tuple[ir.Value, ir.Value]]:
        y, x = self.input_layernorm(op, x, delta, name=f"llm.layers.{self.index - 1}" if delta is not None else None)
        attended, present = self._mixed(op, y, rope, cache)
        y, x = self.post_attention_layernorm(op, x, attended)
        delta = self.mlp(op, y)
        if deepstack is not None:
            delta = deepstack.add(op, delta)
        return x, delta, present

    def _mixed(
        self, op: OpBuilder, x: ir.Value, rope: Rope, cache: Cache | RecurrentState
    ) -> tuple[ir.Value, tuple[ir.Value, ir.Value]]:
        """The output of attention, and what the layer keeps."""
        if self.linear_attn is not None:
            return self.linear_attn(op, x, cache)
        assert self.self_attn is not None
        return self.self_attn(op, x, rope, cache)

    def folds(self) -> tuple[Fold, ...]:
        """The folds of the linears' input scales; query heads that share a value head share its scales.

        Linear attention has none: its projections that stay float read the same norm.
        """
        name, attention = self.name, f"{self.name}.self_attn"
        size = self.input_layernorm.weight.source_shape[0]
        into = np.arange(size)
        folds: tuple[Fold, ...] = ()
        if self.self_attn is not None:
            folds = (
                Fold(tuple(f"{attention}.{x}_proj" for x in "qkv"), f"{name}.input_layernorm", into),
                Fold((f"{attention}.o_proj",), f"{attention}.v_proj", self.self_attn.value_channels(), cached=True),
            )
        if not isinstance(self.mlp, GatedMlp):
            return folds  # the norm feeds a router and all experts
        inner = Fold((f"{name}.mlp.gate_proj", f"{name}.mlp.up_proj"), f"{name}.post_attention_layernorm", into)
        return (*folds, inner, self.mlp.fold(f"{name}.mlp"))


class Decoder(nn.Module):
    """`model.…` of the checkpoint: embedding, splice, layers, final norm."""

    def __init__(self, target: Target, spec: TextSpec) -> None:
        super().__init__("model")
        self.spec = spec
        self.embed_tokens = Embedding(target, spec.vocab_size, spec.hidden_size)
        self.layers = nn.ModuleList([DecoderLayer(target, spec, index) for index in range(spec.num_layers)])
        self.norm = AddNorm(target, spec.hidden_size, "rms", spec.rms_norm_eps)

    def forward(
        self, op: OpBuilder, inputs: LlmInputs | EmbeddedInputs, caches: list[Cache | RecurrentState]
    ) -> tuple[ir.Value, list[tuple[ir.Value, ir.Value]]]:
        rope = mrope(op, self.spec, inputs.position_ids, inputs.ntk_alpha)
        x, delta = inputs.embeds(op, self.embed_tokens), None
        presents = []
        for layer, cache, deepstack in zip(self.layers, caches, _deepstack(inputs, len(caches)), strict=True):
            x, delta, present = layer(op, x, delta, rope, cache, deepstack)
            presents.append(present)
        x = op.Add(x, delta)
        x.name = f"llm.layers.{self.spec.num_layers - 1}"
        y, _ = self.norm(op, op.Gather(x, inputs.logits_positions, axis=1))
        return y, presents


class LlmInputs(NamedTuple):
    """Inputs of the `llm` graph besides the cache; see docs/graph-contract.md."""

    input_ids: ir.Value
    position_ids: ir.Value
    image_features: ir.Value
    image_positions: ir.Value
    logits_positions: ir.Value
    deepstack_features: tuple[ir.Value, ...] = ()
    ntk_alpha: ir.Value | None = None

    def embeds(self, op: OpBuilder, table: Embedding) -> ir.Value:
        """Rows of the table with image features in place of image tokens, [1, S, hidden]."""
        return op.ScatterND(table(op, self.input_ids), self.image_positions, self.image_features)


@dataclass(frozen=True)
class EmbeddedInputs:
    """Inputs of a language model whose tokens are embedded elsewhere; DeepStack features cover all tokens."""

    inputs_embeds: ir.Value
    position_ids: ir.Value
    logits_positions: ir.Value
    deepstack_features: tuple[ir.Value, ...] = ()
    image_positions: ClassVar[None] = None
    ntk_alpha: ClassVar[None] = None

    def embeds(self, op: OpBuilder, table: Embedding) -> ir.Value:
        """Returns the given embeddings; the table stays out of the graph."""
        return self.inputs_embeds


def _deepstack(inputs: LlmInputs | EmbeddedInputs, layers: int) -> list[Deepstack | None]:
    """The features that each of `layers` layers adds to its stream; only the first layers have any."""
    added = [Deepstack(features, inputs.image_positions) for features in inputs.deepstack_features]
    return [*added, *[None] * (layers - len(added))]


class Llm(nn.Module):
    """Decoder and head; a tied head is the embedding table, whose input is rotated back if states are rotated."""

    def __init__(self, target: Target, spec: TextSpec) -> None:
        super().__init__("")
        self.model = Decoder(target, spec)
        self.lm_head = None if spec.tied else Linear(target, spec.hidden_size, spec.vocab_size, bias=False)
        rotated = spec.tied and spec.rotation_seed is not None
        self.head_rotation = Linear(target, spec.hidden_size, spec.hidden_size, bias=False) if rotated else None

    def forward(
        self, op: OpBuilder, inputs: LlmInputs | EmbeddedInputs, caches: list[Cache | RecurrentState]
    ) -> tuple[ir.Value, list[tuple[ir.Value, ir.Value]]]:
        y, presents = self.model(op, inputs, caches)
        if self.head_rotation is not None:
            y = self.head_rotation(op, y)
        return self.head(op, y), presents

    def head(self, op: OpBuilder, y: ir.Value) -> ir.Value:
        """Hidden states → logits."""
        return self.model.embed_tokens.head(op, y) if self.lm_head is None else self.lm_head(op, y)
