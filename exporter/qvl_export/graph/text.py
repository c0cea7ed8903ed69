"""The `llm` graph: token ids, image features and the KV cache → logits."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from onnxscript import OpBuilder, nn

from ..families.spec import TextSpec
from ..targets import Cache, Target
from .layers import AddNorm, Embedding, GatedMlp, Linear, constant, inverse_frequencies


class Rope(NamedTuple):
    """Rotary tables of the new tokens, [1, tokens, head_dim / 2]."""

    cos: ir.Value
    sin: ir.Value


def mrope(op: OpBuilder, spec: TextSpec, position_ids: ir.Value) -> Rope:
    """M-RoPE: every frequency turns with the time, row or column position, [3, 1, S] → [1, S, head_dim / 2]."""
    axes = np.repeat(np.arange(3), spec.mrope_section)
    positions = op.Transpose(op.Cast(position_ids, to=ir.DataType.FLOAT), perm=[1, 2, 0])
    chosen = op.Gather(positions, constant(op, axes, "mrope_axes"), axis=2)
    inverse = inverse_frequencies(spec.head_dim, spec.rope_theta, spec.yarn)
    angles = op.Mul(chosen, constant(op, inverse, "inverse_frequencies"))
    cos, sin = op.Cos(angles), op.Sin(angles)
    if spec.yarn is not None:
        factor = constant(op, np.array(spec.yarn.attention_factor, np.float32), "rope_attention_factor")
        cos, sin = op.Mul(cos, factor), op.Mul(sin, factor)
    return Rope(cos, sin)


class Attention(nn.Module):
    """Grouped-query attention; q, k and v have biases, o has none (Qwen2)."""

    def __init__(self, target: Target, spec: TextSpec) -> None:
        super().__init__()
        self.target, self.heads, self.kv_heads = target, spec.num_heads, spec.num_key_value_heads
        self.q_proj = Linear(target, spec.hidden_size, self.heads * spec.head_dim)
        self.k_proj = Linear(target, spec.hidden_size, self.kv_heads * spec.head_dim)
        self.v_proj = Linear(target, spec.hidden_size, self.kv_heads * spec.head_dim)
        self.o_proj = Linear(target, self.heads * spec.head_dim, spec.hidden_size, bias=False)

    def forward(
        self, op: OpBuilder, x: ir.Value, rope: Rope, cache: Cache
    ) -> tuple[ir.Value, tuple[ir.Value, ir.Value]]:
        q = self.target.rotary(op, self.q_proj(op, x), rope.cos, rope.sin, self.heads)
        k = self.target.rotary(op, self.k_proj(op, x), rope.cos, rope.sin, self.kv_heads)
        y, key, value = self.target.causal_attention(op, q, k, self.v_proj(op, x), cache, self.heads, self.kv_heads)
        return self.o_proj(op, y), (key, value)


class DecoderLayer(nn.Module):
    """Pre-norm attention and MLP; takes and returns the residual stream and its pending addend."""

    def __init__(self, target: Target, spec: TextSpec, index: int, name: str | None = None) -> None:
        super().__init__(name)
        self.index = index
        self.input_layernorm = AddNorm(target, spec.hidden_size, "rms", spec.rms_norm_eps)
        self.post_attention_layernorm = AddNorm(target, spec.hidden_size, "rms", spec.rms_norm_eps)
        self.self_attn = Attention(target, spec)
        self.mlp = GatedMlp(target, spec.hidden_size, spec.intermediate_size, "silu", bias=False)

    def forward(
        self, op: OpBuilder, x: ir.Value, delta: ir.Value | None, rope: Rope, cache: Cache
    ) -> tuple[ir.Value, ir.Value, tuple[ir.Value, ir.Value]]:
        y, x = self.input_layernorm(op, x, delta, name=f"llm.layers.{self.index - 1}" if delta is not None else None)
        attended, present = self.self_attn(op, y, rope, cache)
        y, x = self.post_attention_layernorm(op, x, attended)
        return x, self.mlp(op, y), present


class Decoder(nn.Module):
    """`model.…` of the checkpoint: embedding, splice, layers, final norm."""

    def __init__(self, target: Target, spec: TextSpec) -> None:
        super().__init__("model")
        self.spec = spec
        self.embed_tokens = Embedding(target, spec.vocab_size, spec.hidden_size)
        self.layers = nn.ModuleList([DecoderLayer(target, spec, index) for index in range(spec.num_layers)])
        self.norm = AddNorm(target, spec.hidden_size, "rms", spec.rms_norm_eps)

    def forward(
        self, op: OpBuilder, inputs: LlmInputs, caches: list[Cache]
    ) -> tuple[ir.Value, list[tuple[ir.Value, ir.Value]]]:
        rope = mrope(op, self.spec, inputs.position_ids)
        embeds = self.embed_tokens(op, inputs.input_ids)
        x, delta = op.ScatterND(embeds, inputs.image_positions, inputs.image_features), None
        presents = []
        for layer, cache in zip(self.layers, caches, strict=True):
            x, delta, present = layer(op, x, delta, rope, cache)
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


class Llm(nn.Module):
    """Decoder and head; a tied head is the embedding table itself."""

    def __init__(self, target: Target, spec: TextSpec) -> None:
        super().__init__("")
        self.model = Decoder(target, spec)
        self.lm_head = None if spec.tied else Linear(target, spec.hidden_size, spec.vocab_size, bias=False)

    def forward(
        self, op: OpBuilder, inputs: LlmInputs, caches: list[Cache]
    ) -> tuple[ir.Value, list[tuple[ir.Value, ir.Value]]]:
        y, presents = self.model(op, inputs, caches)
        return (self.model.embed_tokens.head(op, y) if self.lm_head is None else self.lm_head(op, y)), presents
