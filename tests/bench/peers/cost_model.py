"""What a page costs by the model's shape: operations of the tower, of the prompt and of a token, and bytes read."""

from __future__ import annotations

from dataclasses import dataclass

from qvl_export.families.spec import ModelSpec
from qvl_runtime.manifest import ImageGeometry

BITS = {"fp32": 32.0, "fp16": 16.0, "bf16": 16.0, "int8": 8.0, "Q8_0": 8.5, "int4": 4.5, "hybrid": 4.5, "Q4_0": 4.5}
"""Bits per decoder weight and its scales, as a token reads them; other parts of a file differ a little."""


@dataclass(frozen=True)
class Cost:
    """Multiplications and additions of linears and of attention."""

    linear: float
    attention: float

    @property
    def operations(self) -> float:
        return self.linear + self.attention


def tower(spec: ModelSpec, patches: int) -> Cost:
    """Of the vision tower for one image of so many patches."""
    vision = spec.vision
    size, blocks, merge = vision.hidden_size, vision.depth, vision.spatial_merge_size**2
    mlp = (3 if vision.gated else 2) * size * vision.intermediate_size
    merged = size * merge
    weights = vision.patch_dim * size + blocks * (4 * size * size + mlp)
    merger = merged * (merged + vision.out_hidden_size) / merge
    full = len(vision.full_attention_blocks)
    keys = full * patches + (blocks - full) * min(patches, window(spec.image))
    return Cost(2.0 * patches * (weights + merger), 4.0 * size * patches * keys)


def window(image: ImageGeometry) -> int:
    """Patches of a window of attention, 0 without windows."""
    return (image.window * image.spatial_merge_size) ** 2


def decoder_weights(spec: ModelSpec) -> int:
    """Weights of the decoder's linears, without the head."""
    text = spec.text
    heads = (2 * text.num_heads + 2 * text.num_key_value_heads) * text.head_dim
    return text.num_layers * text.hidden_size * (heads + 3 * text.intermediate_size)


def prompt(spec: ModelSpec, tokens: int) -> Cost:
    """Of the language model for a prompt, whose last token alone goes through the head; attention is causal."""
    text = spec.text
    head = text.vocab_size * text.hidden_size
    attention = 2.0 * text.num_layers * text.num_heads * text.head_dim * tokens * tokens
    return Cost(2.0 * (tokens * decoder_weights(spec) + head), attention)


def token_bytes(spec: ModelSpec, precision: str, cached: int) -> float:
    """Bytes that one token of an answer reads: weights, head, and float16 keys and values."""
    text = spec.text
    weights = decoder_weights(spec) + text.vocab_size * text.hidden_size
    cache = 2 * 2 * text.num_layers * text.num_key_value_heads * text.head_dim * cached
    return weights * BITS[precision] / 8 + cache
