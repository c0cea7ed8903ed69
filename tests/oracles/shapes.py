"""Sizes of the tiny models, and the special tokens of their vocabulary."""

from __future__ import annotations

from dataclasses import dataclass

VOCAB = 384
IMAGE, VIDEO, VISION_START, VISION_END, IM_END = 363, 364, 360, 361, 353


@dataclass(frozen=True)
class Shape:
    """Sizes of a tiny model; heads are chosen so that grouping ratios and head sizes differ between shapes.

    `full_blocks` are the vision blocks with full attention in a tower with windows, or those that feed DeepStack.
    """

    hidden: int
    heads: int
    kv_heads: int
    layers: int
    vision_hidden: int
    vision_heads: int
    vision_depth: int
    full_blocks: tuple[int, ...]
    mrope: tuple[int, int, int]
    tied: bool
    ffn: int = 96


SHAPES = {
    "small": Shape(64, 4, 2, 2, 64, 4, 2, (1,), (2, 3, 3), True),
    "deep": Shape(96, 6, 1, 5, 48, 3, 4, (0, 3), (4, 2, 2), False, ffn=84),
    "wide": Shape(160, 5, 5, 3, 80, 2, 3, (), (4, 6, 6), True, ffn=212),
}
