"""Computes the size images are resized to: sides in whole tokens, within pixel bounds."""

from __future__ import annotations

import math

from .errors import MediaError

MAX_ASPECT_RATIO = 200
"""The checkpoints' limit (transformers `smart_resize`)."""


def smart_resize(height: int, width: int, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Returns height and width as multiples of `factor` within the pixel bounds, preserving the aspect ratio closely.

    Rounds half to even like Python's `round`. Raises MediaError above an aspect ratio of 200.
    """
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise MediaError(f"aspect ratio of {width} × {height} is above {MAX_ASPECT_RATIO}", fix="crop the image")
    tall, wide = round(height / factor) * factor, round(width / factor) * factor
    if tall * wide > max_pixels:
        shrink = math.sqrt((height * width) / max_pixels)
        tall = max(factor, math.floor(height / shrink / factor) * factor)
        wide = max(factor, math.floor(width / shrink / factor) * factor)
    elif tall * wide < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        tall = math.ceil(height * grow / factor) * factor
        wide = math.ceil(width * grow / factor) * factor
    return tall, wide
