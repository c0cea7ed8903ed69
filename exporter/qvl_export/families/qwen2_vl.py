"""Qwen2-VL: LayerNorm and quick-GELU tower with full attention, Qwen2 language model with chunked M-RoPE."""

from __future__ import annotations

from typing import Annotated

import msgspec

from qvl_runtime.manifest import BoxNotation, VideoTiming

from ..checkpoint.directory import Checkpoint
from .config import Depth, Positive, read_tokens, refuse_unless
from .config.text import QWEN2_DEFAULTS, read_text
from .config.vision import check_vision, read_image, read_vision
from .spec import ModelSpec, VisionSpec

GENAI_TYPE = "qwen2_5_vl"


class VisionConfig(msgspec.Struct):
    """`vision_config` with the defaults of transformers' `Qwen2VLVisionConfig`."""

    depth: Depth = 32
    embed_dim: Positive = 1280
    hidden_size: Positive = 3584
    hidden_act: str = "quick_gelu"
    mlp_ratio: Annotated[float, msgspec.Meta(gt=0, le=64)] = 4
    num_heads: Positive = 16
    patch_size: Positive = 14
    spatial_merge_size: Positive = 2
    temporal_patch_size: Positive = 2


def read(checkpoint: Checkpoint) -> ModelSpec:
    """Reads the specification of a Qwen2-VL checkpoint; raises ConfigError for unsupported values."""
    config = read_vision(checkpoint, VisionConfig)
    text, max_positions = read_text(checkpoint, QWEN2_DEFAULTS)
    image = read_image(checkpoint)
    refuse_unless(
        config.hidden_act == "quick_gelu", f"vision hidden_act {config.hidden_act!r} is not supported", checkpoint
    )
    refuse_unless(config.hidden_size == text.hidden_size, "vision hidden_size is not the LLM's", checkpoint)
    patch = (config.patch_size, config.temporal_patch_size, config.spatial_merge_size)
    check_vision(image, patch, config.embed_dim, config.num_heads, checkpoint)
    vision = VisionSpec(
        depth=config.depth,
        hidden_size=config.embed_dim,
        intermediate_size=int(config.embed_dim * config.mlp_ratio),
        num_heads=config.num_heads,
        patch_dim=image.patch_dim,
        out_hidden_size=config.hidden_size,
        spatial_merge_size=config.spatial_merge_size,
        norm="layer",
        activation="quick_gelu",
        gated=False,
        full_attention_blocks=frozenset(range(config.depth)),
    )
    tokens = read_tokens(checkpoint, text.vocab_size)
    boxes = BoxNotation(syntax="marks", unit="thousandth")
    return ModelSpec("qwen2_vl", vision, text, image, tokens, VideoTiming(), max_positions, boxes=boxes)
