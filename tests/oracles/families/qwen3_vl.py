from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from ..shapes import Shape
from . import Family, config, text_config

TABLE = 7
"""The side of the table of positions."""
IMAGES = {"patch_size": 16, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "min_pixels": 4096}
VISION_INPUTS = frozenset({"patch_positions", "interpolation_indices", "interpolation_weights"})


def build(shape: Shape) -> PreTrainedModel:
    return Qwen3VLForConditionalGeneration(config(Qwen3VLConfig, shape, text(shape), vision(shape)))


def text(shape: Shape) -> dict[str, Any]:
    """`text_config`; heads are wider than the hidden size per head."""
    section, values = [2 * count for count in shape.mrope], text_config(shape)
    rope = values["rope_parameters"] | {"mrope_section": section, "mrope_interleaved": True}
    return values | {"head_dim": 2 * sum(section), "rope_parameters": rope}


def vision(shape: Shape) -> dict[str, Any]:
    """`vision_config`."""
    return {
        "depth": shape.vision_depth,
        "hidden_size": shape.vision_hidden,
        "intermediate_size": shape.ffn,
        "num_heads": shape.vision_heads,
        "out_hidden_size": shape.hidden,
        "num_position_embeddings": TABLE**2,
        "deepstack_visual_indexes": list(shape.full_blocks),
    }


FAMILY = Family(
    build,
    VISION_INPUTS,
    '{{"bbox_2d": [{1}, {2}, {3}, {4}], "label": "{0}"}}',
    deepstack=True,
    images=IMAGES,
)
