"""Qwen3.5: Qwen3-VL's tower without DeepStack; linear attention in three of four layers, gated attention in others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

import msgspec

from ..checkpoint.derived_tensors import one_added
from ..checkpoint.directory import Checkpoint
from ..checkpoint.safetensors_reader import Tensor
from . import qwen3_vl
from .config import Depth, Positive, convert, read_tokens, refuse_unless
from .config.text import read_text
from .spec import LinearAttentionSpec, ModelSpec, TextSpec

IMAGE_TOKEN, VIDEO_TOKEN = 248056, 248057
PARTIAL_ROTARY = 0.25
TEXT_DEFAULTS: Mapping[str, Any] = {
    "head_dim": 256,
    "max_position_embeddings": 32768,
    "mrope_section": [11, 11, 10],
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
}
"""Defaults of transformers' `Qwen3_5TextConfig`."""
ZERO_CENTERED = ("layernorm.weight", "q_norm.weight", "k_norm.weight", "model.norm.weight")
"""Ends of the names of norms whose gains are stored minus one; the gated norm of linear attention is not among them."""


class VisionConfig(qwen3_vl.VisionConfig):
    """`vision_config` with the defaults of transformers' `Qwen3_5VisionConfig`, which has no DeepStack."""

    deepstack_visual_indexes: list[Annotated[int, msgspec.Meta(ge=0)]] = msgspec.field(default_factory=list)


class LinearConfig(msgspec.Struct):
    """The part of `text_config` about linear attention, with the defaults of transformers' `Qwen3_5TextConfig`.

    `output_gate_type`, which Qwen3.6 says, is the activation of the gate behind linear attention.
    """

    num_hidden_layers: Depth
    linear_conv_kernel_dim: Annotated[int, msgspec.Meta(ge=2, le=64)] = 4
    linear_key_head_dim: Positive = 128
    linear_value_head_dim: Positive = 128
    linear_num_key_heads: Positive = 16
    linear_num_value_heads: Positive = 32
    layer_types: list[Literal["linear_attention", "full_attention"]] | None = None
    full_attention_interval: Positive = 4
    attn_output_gate: bool = True
    output_gate_type: str | None = None

    @property
    def layers(self) -> frozenset[int]:
        """The layers with linear attention."""
        every = range(self.num_hidden_layers)
        if self.layer_types is None:
            return frozenset(index for index in every if (index + 1) % self.full_attention_interval)
        return frozenset(index for index in every if self.layer_types[index] == "linear_attention")


def read(checkpoint: Checkpoint) -> ModelSpec:
    """Reads the specification of a Qwen3.5 checkpoint; raises ConfigError for unsupported values."""
    text, max_positions = read_hybrid_text(checkpoint, TEXT_DEFAULTS)
    return assemble("qwen3_5", text, max_positions, checkpoint)


def read_hybrid_text(checkpoint: Checkpoint, defaults: Mapping[str, Any]) -> tuple[TextSpec, int]:
    """Reads a language model of this generation without its experts, and its position limit."""
    text, max_positions = read_text(checkpoint, defaults, True, interleaved=True, partial=PARTIAL_ROTARY)
    raw, where = checkpoint.config, checkpoint.directory / "config.json"
    config = convert(raw.get("text_config") or raw, LinearConfig, where, "text_config" if "text_config" in raw else "")
    count = len(config.layer_types or range(text.num_layers))
    refuse_unless(count == text.num_layers, f"{count} layer_types for {text.num_layers} layers", checkpoint)
    refuse_unless(
        config.linear_num_value_heads % config.linear_num_key_heads == 0,
        f"linear_num_key_heads {config.linear_num_key_heads} does not divide linear_num_value_heads "
        f"{config.linear_num_value_heads}",
        checkpoint,
    )
    gate = config.output_gate_type
    refuse_unless(gate in (None, "swish", "silu"), f"output_gate_type {gate!r} is not supported", checkpoint)
    linear = LinearAttentionSpec(
        config.layers,
        key_heads=config.linear_num_key_heads,
        value_heads=config.linear_num_value_heads,
        key_dim=config.linear_key_head_dim,
        value_dim=config.linear_value_head_dim,
        kernel=config.linear_conv_kernel_dim,
    )
    return replace(text, output_gate=config.attn_output_gate, linear_attention=linear), max_positions


def assemble(family: str, text: TextSpec, max_positions: int, checkpoint: Checkpoint) -> ModelSpec:
    """Builds the specification around a language model of this generation, dense or with experts."""
    spec = qwen3_vl.assemble(family, text, max_positions, checkpoint, VisionConfig)
    refuse_unless(
        not spec.text.deepstack_layers, "deepstack_visual_indexes are not supported in this family", checkpoint
    )
    return replace(spec, tokens=read_tokens(checkpoint, text.vocab_size, IMAGE_TOKEN, VIDEO_TOKEN))


def tensors(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The tensors of the checkpoint, with the gains of all norms as they are multiplied."""
    return centered(checkpoint.tensors)


def centered(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors with one added to the gains of zero-centered norms."""
    return {
        name: one_added(tensor) if name.startswith("model.") and name.endswith(ZERO_CENTERED) else tensor
        for name, tensor in tensors.items()
    }
