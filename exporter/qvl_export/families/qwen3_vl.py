"""Qwen3-VL: LayerNorm tower with interpolated positions and DeepStack, Qwen3 language model, video timestamps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

import msgspec

from qvl_runtime.manifest import ImageGeometry, VideoTiming

from ..checkpoint.directory import Checkpoint
from .config import Depth, Positive, read_tokens, refuse_unless
from .config.text import read_text
from .config.vision import check_vision, read_image, read_vision
from .spec import ModelSpec, TextSpec, VisionSpec

GENAI_TYPE = "qwen3_vl"
TEXT_DEFAULTS: Mapping[str, Any] = {
    "head_dim": 128,
    "max_position_embeddings": 128000,
    "mrope_section": [24, 20, 20],
    "rms_norm_eps": 1e-6,
    "rope_theta": 500000.0,
}
"""Defaults of transformers' `Qwen3VLTextConfig`."""


class VisionConfig(msgspec.Struct):
    """`vision_config` with the defaults of transformers' `Qwen3VLVisionConfig`."""

    depth: Depth = 27
    hidden_size: Positive = 1152
    hidden_act: str = "gelu_pytorch_tanh"
    intermediate_size: Positive = 4304
    num_heads: Positive = 16
    patch_size: Positive = 16
    spatial_merge_size: Positive = 2
    temporal_patch_size: Positive = 2
    out_hidden_size: Positive = 3584
    num_position_embeddings: Positive = 2304
    deepstack_visual_indexes: list[Annotated[int, msgspec.Meta(ge=0)]] = msgspec.field(
        default_factory=lambda: [8, 16, 24]
    )

    @property
    def position_table(self) -> int:
        """The side of the position table."""
        return math.isqrt(self.num_position_embeddings)


def read(checkpoint: Checkpoint) -> ModelSpec:
    """Reads the specification of a Qwen3-VL checkpoint; raises ConfigError for unsupported values."""
    text, max_positions = read_text(checkpoint, TEXT_DEFAULTS, free_head_dim=True, interleaved=True)
    return assemble("qwen3_vl", text, max_positions, checkpoint)


def assemble(
    family: str,
    text: TextSpec,
    max_positions: int,
    checkpoint: Checkpoint,
    vision_config: type[VisionConfig] = VisionConfig,
) -> ModelSpec:
    """Builds the specification around a language model of this generation, dense or with experts."""
    config = read_vision(checkpoint, vision_config)
    image = read_image(checkpoint, position_table=config.position_table)
    vision = _vision(config, image, checkpoint)
    deepstack = len(vision.deepstack_blocks)
    refuse_unless(vision.out_hidden_size == text.hidden_size, "vision out_hidden_size is not the LLM's", checkpoint)
    refuse_unless(deepstack <= text.num_layers, f"{deepstack} DeepStack features for fewer layers", checkpoint)
    biased = (checkpoint.config.get("text_config") or checkpoint.config).get("attention_bias", False)
    refuse_unless(not biased, "attention_bias is not supported in this family", checkpoint)
    text = replace(text, qkv_bias=False, qk_norm=True, deepstack_layers=deepstack)
    tokens = read_tokens(checkpoint, text.vocab_size)
    return ModelSpec(family, vision, text, image, tokens, VideoTiming(timestamps=True), max_positions)


def _vision(config: VisionConfig, image: ImageGeometry, checkpoint: Checkpoint) -> VisionSpec:
    act, blocks = config.hidden_act, config.deepstack_visual_indexes
    refuse_unless(act == "gelu_pytorch_tanh", f"vision hidden_act {act!r} is not supported", checkpoint)
    refuse_unless(
        config.position_table**2 == config.num_position_embeddings,
        f"num_position_embeddings {config.num_position_embeddings} is not a square",
        checkpoint,
    )
    refuse_unless(
        sorted(set(blocks)) == blocks and all(block < config.depth for block in blocks),
        f"deepstack_visual_indexes {blocks} are not increasing and below depth {config.depth}",
        checkpoint,
    )
    patch = (config.patch_size, config.temporal_patch_size, config.spatial_merge_size)
    check_vision(image, patch, config.hidden_size, config.num_heads, checkpoint)
    return VisionSpec(
        depth=config.depth,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_heads=config.num_heads,
        patch_dim=image.patch_dim,
        out_hidden_size=config.out_hidden_size,
        spatial_merge_size=config.spatial_merge_size,
        norm="layer",
        activation="gelu_tanh",
        gated=False,
        full_attention_blocks=frozenset(range(config.depth)),
        fc="linear_fc",
        patch_bias=True,
        position_table=config.position_table,
        deepstack_blocks=tuple(blocks),
    )
