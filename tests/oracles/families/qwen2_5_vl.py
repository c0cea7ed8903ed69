from __future__ import annotations

from transformers import PreTrainedModel, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from ..shapes import Shape
from . import Family, config, text_config


def build(shape: Shape, kind: type = Qwen2_5_VLConfig) -> PreTrainedModel:
    """The model of a configuration of type `kind`."""
    vision = {
        "depth": shape.vision_depth,
        "hidden_size": shape.vision_hidden,
        "intermediate_size": shape.ffn,
        "num_heads": shape.vision_heads,
        "out_hidden_size": shape.hidden,
        "fullatt_block_indexes": list(shape.full_blocks),
        "tokens_per_second": 2,
        "window_size": 112,
    }
    return Qwen2_5_VLForConditionalGeneration(config(kind, shape, text_config(shape), vision))


FAMILY = Family(
    build,
    frozenset({"patch_positions", "window_gather", "window_lengths", "window_scatter"}),
    '{{"bbox_2d": [{1}, {2}, {3}, {4}], "label": "{0}"}}',
    thousandths=False,
)
