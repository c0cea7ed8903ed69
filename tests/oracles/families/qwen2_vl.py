from __future__ import annotations

from transformers import PreTrainedModel, Qwen2VLConfig, Qwen2VLForConditionalGeneration

from ..shapes import Shape
from . import Family, config, text_config


def build(shape: Shape) -> PreTrainedModel:
    vision = {
        "depth": shape.vision_depth,
        "embed_dim": shape.vision_hidden,
        "hidden_size": shape.hidden,
        "num_heads": shape.vision_heads,
        "mlp_ratio": 3,
    }
    return Qwen2VLForConditionalGeneration(config(Qwen2VLConfig, shape, text_config(shape), vision))


FAMILY = Family(
    build,
    frozenset({"patch_positions"}),
    "<|object_ref_start|>{0}<|object_ref_end|><|box_start|>({1},{2}),({3},{4})<|box_end|>",
)
