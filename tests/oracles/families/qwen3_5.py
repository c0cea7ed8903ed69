from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel, Qwen3_5Config, Qwen3_5ForConditionalGeneration

from ..shapes import Shape
from . import Family, config, qwen3_vl, text_config

ZERO_CENTERED = ("layernorm.weight", "q_norm.weight", "k_norm.weight", "language_model.norm.weight")


def build(shape: Shape) -> PreTrainedModel:
    return Qwen3_5ForConditionalGeneration(config(Qwen3_5Config, shape, text(shape), vision(shape)))


def recurrent(shape: Shape) -> frozenset[int]:
    """All layers but the second, and every third after it."""
    return frozenset(index for index in range(shape.layers) if index % 3 != 1)


def text(shape: Shape) -> dict[str, Any]:
    """`text_config`; heads are wider than the hidden size per head, and half of each is rotated.

    Linear attention has one or several value heads per key head, and heads whose keys and values differ in size.
    """
    values = text_config(shape)
    rope = values["rope_parameters"] | {"mrope_interleaved": True, "partial_rotary_factor": 0.5}
    groups = 1 + shape.layers % 2
    kinds = ["linear_attention" if index in recurrent(shape) else "full_attention" for index in range(shape.layers)]
    return values | {
        "head_dim": 4 * sum(shape.mrope),
        "rope_parameters": rope,
        "layer_types": kinds,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2 * groups,
        "linear_key_head_dim": 32,
        "linear_value_head_dim": 16,
    }


def vision(shape: Shape) -> dict[str, Any]:
    """`vision_config`."""
    values = qwen3_vl.vision(shape)
    del values["deepstack_visual_indexes"]
    return values


FAMILY = Family(
    build,
    qwen3_vl.VISION_INPUTS,
    '{{"bbox_2d": [{1}, {2}, {3}, {4}], "label": "{0}"}}',
    images=qwen3_vl.IMAGES,
    zero_centered=ZERO_CENTERED,
    recurrent=recurrent,
)
