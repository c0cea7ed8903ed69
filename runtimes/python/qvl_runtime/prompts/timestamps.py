"""Timestamps of video frames as text, for families that use them instead of temporal positions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from ..manifest import ImageTokens

VIDEO_PAD = "<|video_pad|>"
VISION_BLOCK = ImageTokens(start="<|vision_start|>", end="<|vision_end|>", layout="grid")
"""The tokens around image tokens in bundles that do not say it, before schema 10."""


def patch_times(times: Sequence[float], size: int) -> list[float]:
    """Returns the seconds of every temporal patch: the mean of its first and last frame; the last frame is repeated."""
    filled = [*times, *[times[-1]] * (-len(times) % size)]
    return [(filled[first] + filled[first + size - 1]) / 2 for first in range(0, len(filled), size)]


def write_times(text: str, videos: Sequence[Sequence[float]], around: ImageTokens = VISION_BLOCK) -> str:
    """Replaces each video's placeholder in a rendered prompt by a timestamp and a vision block per temporal patch.

    `videos` are the patch times of each video, in order; `around` has the tokens of a vision block. The text around a
    placeholder stays (transformers 5 `Qwen3VLProcessor.replace_video_token`); placeholders without a video are left as
    they are.
    """
    blocks: Iterator[str] = iter(["".join(_block(seconds, around) for seconds in times) for times in videos])
    return re.sub(re.escape(VIDEO_PAD), lambda pad: next(blocks, pad[0]), text)


def _block(seconds: float, around: ImageTokens) -> str:
    return f"<{seconds:.1f} seconds>{around.start}{VIDEO_PAD}{around.end}"
