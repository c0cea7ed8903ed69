from __future__ import annotations

from transformers import PreTrainedModel, Qwen3_5MoeConfig, Qwen3_5MoeForConditionalGeneration

from ..shapes import Shape
from . import Family, config, qwen3_5, qwen3_vl
from .qwen3_vl_moe import EXPERT


def build(shape: Shape) -> PreTrainedModel:
    inner = EXPERT[shape.hidden]
    experts = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": inner}
    text = qwen3_5.text(shape) | experts | {"shared_expert_intermediate_size": 2 * inner}
    del text["intermediate_size"]
    return Qwen3_5MoeForConditionalGeneration(config(Qwen3_5MoeConfig, shape, text, qwen3_5.vision(shape)))


FAMILY = Family(
    build,
    qwen3_vl.VISION_INPUTS,
    '{{"label": "{0}", "bbox_2d": [{1}, {2}, {3}, {4}]}}',
    experts=True,
    images=qwen3_vl.IMAGES,
    zero_centered=qwen3_5.ZERO_CENTERED,
    recurrent=qwen3_5.recurrent,
)
