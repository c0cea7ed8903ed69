"""What bundles of the published checkpoints have in their manifests, family by family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from qvl_runtime.manifest import (
    ImageGeometry,
    ImageTokens,
    LlmGeometry,
    Manifest,
    Provenance,
    Tokens,
    VideoTiming,
)

CLIP = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
HALVES = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
_OF_14 = {"patch_size": 14, "temporal_patch_size": 2, "spatial_merge_size": 2, "min_pixels": 3136, **CLIP}
_OF_16 = {"patch_size": 16, "temporal_patch_size": 2, "spatial_merge_size": 2, "min_pixels": 65536, **HALVES}
_QWEN2 = ImageGeometry(**_OF_14, max_pixels=12845056)
_QWEN3 = ImageGeometry(**_OF_16, max_pixels=16777216, position_table=48)

IMAGES: Mapping[str, ImageGeometry] = {
    "qwen": ImageGeometry(
        patch_size=14,
        temporal_patch_size=1,
        spatial_merge_size=1,
        min_pixels=448**2,
        max_pixels=448**2,
        square=448,
        queries=256,
        **CLIP,
    ),
    "qwen2_vl": _QWEN2,
    "qwen2_5_vl": msgspec.structs.replace(_QWEN2, window=4),
    "qwen3_vl": _QWEN3,
    "qwen3_vl_moe": _QWEN3,
    "qwen3_5": _QWEN3,
    "qwen3_5_moe": _QWEN3,
}
TIMINGS: Mapping[str, VideoTiming] = {
    "qwen": VideoTiming(),
    "qwen2_vl": VideoTiming(),
    "qwen2_5_vl": VideoTiming(tokens_per_second=2),
    "qwen3_vl": VideoTiming(timestamps=True),
    "qwen3_vl_moe": VideoTiming(timestamps=True),
    "qwen3_5": VideoTiming(timestamps=True),
    "qwen3_5_moe": VideoTiming(timestamps=True),
}
FAMILIES = tuple(IMAGES)
VISION_BLOCK = ImageTokens(start="<|vision_start|>", end="<|vision_end|>", layout="grid")
REFERENCE_TOKENS = Tokens(image=363, video=364, stop=[353, 351])
"""Of the tokenizer of the reference checkpoints."""


def manifest(family: str, max_length: int) -> Manifest:
    """A manifest with all that a prompt is built from: no graphs, and the tokens of the reference tokenizer."""
    sizes = dict.fromkeys(("hidden_size", "num_layers", "num_key_value_heads", "head_dim"), 1)
    unknown = dict.fromkeys(("checkpoint", "config_sha256", "weights_sha256", "producer", "created"), "")
    return Manifest(
        schema_version=10,
        family=family,
        target="cpu",
        image=IMAGES[family],
        llm=LlmGeometry(vocab_size=400, max_length=max_length, **sizes),
        tokens=REFERENCE_TOKENS,
        video=TIMINGS[family],
        graphs={},
        files={},
        provenance=Provenance(revision=None, **unknown),
        image_tokens=VISION_BLOCK,
    )


def described(value: msgspec.Struct, *left_out: str) -> dict[str, Any]:
    """A part of a manifest as `bundle.json` writes it."""
    return {key: item for key, item in msgspec.to_builtins(value).items() if key not in left_out}
