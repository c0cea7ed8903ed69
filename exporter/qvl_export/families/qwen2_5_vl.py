"""Qwen2.5-VL: RMSNorm and SwiGLU tower with windowed attention, Qwen2.5 language model, videos positioned by time."""

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
    """`vision_config` with the defaults of transformers' `Qwen2_5_VLVisionConfig`."""

    depth: Depth = 32
    hidden_size: Positive = 3584
    hidden_act: str = "silu"
    intermediate_size: Positive = 3420
    num_heads: Positive = 16
    out_hidden_size: Positive = 3584
    patch_size: Positive = 14
    spatial_merge_size: Positive = 2
    temporal_patch_size: Positive = 2
    tokens_per_second: Annotated[float, msgspec.Meta(gt=0, le=1e6)] = 4
    window_size: Positive = 112
    fullatt_block_indexes: list[int] = msgspec.field(default_factory=lambda: [7, 15, 23, 31])


def read(checkpoint: Checkpoint) -> ModelSpec:
    """Reads the specification of a Qwen2.5-VL checkpoint; raises ConfigError for unsupported values."""
    config = read_vision(checkpoint, VisionConfig)
    text, max_positions = read_text(checkpoint, QWEN2_DEFAULTS)
    window = config.window_size // config.patch_size // config.spatial_merge_size
    image = read_image(checkpoint, window)
    refuse_unless(config.hidden_act == "silu", f"vision hidden_act {config.hidden_act!r} is not supported", checkpoint)
    refuse_unless(config.out_hidden_size == text.hidden_size, "vision out_hidden_size is not the LLM's", checkpoint)
    blocks = config.fullatt_block_indexes
    refuse_unless(
        all(0 <= block < config.depth for block in blocks),
        f"fullatt_block_indexes {blocks} are not all below depth {config.depth}",
        checkpoint,
    )
    refuse_unless(0 < window <= 64, f"window_size {config.window_size} is not 1 to 64 merged cells", checkpoint)
    patch = (config.patch_size, config.temporal_patch_size, config.spatial_merge_size)
    check_vision(image, patch, config.hidden_size, config.num_heads, checkpoint)
    vision = VisionSpec(
        depth=config.depth,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_heads=config.num_heads,
        patch_dim=image.patch_dim,
        out_hidden_size=config.out_hidden_size,
        spatial_merge_size=config.spatial_merge_size,
        norm="rms",
        activation="silu",
        gated=True,
        full_attention_blocks=frozenset(blocks),
    )
    timing = VideoTiming(tokens_per_second=config.tokens_per_second)
    tokens = read_tokens(checkpoint, text.vocab_size)
    boxes = BoxNotation(syntax="json", unit="pixel")
    return ModelSpec("qwen2_5_vl", vision, text, image, tokens, timing, max_positions, boxes=boxes)
