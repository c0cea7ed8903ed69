from __future__ import annotations

from transformers import PreTrainedModel, Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration

from ..shapes import Shape
from . import Family, config, qwen3_vl

EXPERT = {64: 32, 96: 64, 160: 160}
"""Inner size of experts by hidden size: in the small shape gate and up together are square, in the wide one down is."""


def build(shape: Shape) -> PreTrainedModel:
    experts = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": EXPERT[shape.hidden]}
    text = qwen3_vl.text(shape) | experts | {"mlp_only_layers": [1] if shape.layers > 2 else []}
    return Qwen3VLMoeForConditionalGeneration(config(Qwen3VLMoeConfig, shape, text, qwen3_vl.vision(shape)))


FAMILY = Family(
    build,
    qwen3_vl.VISION_INPUTS,
    '{{"label": "{0}", "bbox_2d": [{1}, {2}, {3}, {4}]}}',
    deepstack=True,
    experts=True,
    images=qwen3_vl.IMAGES,
)
