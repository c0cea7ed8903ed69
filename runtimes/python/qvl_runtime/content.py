"""Chat messages taken apart: their media loaded, what is left checked and ready for a chat template."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .errors import PromptError
from .manifest import Manifest
from .media import Frame, check_aspect, load_pages
from .positions import Grid
from .preprocess import resized_grid
from .tools import check_calls
from .video import DEFAULT_FPS, Budget, Sampling, load_clip

ROLES = ("system", "user", "assistant", "tool")
Message = Mapping[str, Any]


@dataclass(frozen=True)
class Media:
    """An image (one frame) or a video: RGB frames of one size, frames a second, `times` of those of a file.

    `bounds` are the least and most pixels of a frame after resizing, the bundle's where None.
    """

    kind: str
    frames: tuple[Frame, ...]
    fps: float = DEFAULT_FPS
    bounds: tuple[int, int] | None = None
    times: tuple[float, ...] = ()

    def grid(self, bound: int, manifest: Manifest) -> Grid:
        """The patch grid when resized to at most `bound` pixels a frame, and within the media's own bounds."""
        low, high = self.bounds or (manifest.image.min_pixels, manifest.image.max_pixels)
        return resized_grid(self.frames[0].size, len(self.frames), manifest.image, min(high, bound), low)

    def max_pixels(self, manifest: Manifest) -> int:
        """Most pixels of a frame after resizing: the media's own bound, else the bundle's."""
        return self.bounds[1] if self.bounds else manifest.image.max_pixels

    @cached_property
    def digest(self) -> bytes:
        """A hash of all pixels and the size."""
        digest = hashlib.sha256(repr((self.kind, self.frames[0].size)).encode())
        for frame in self.frames:
            digest.update(frame.tobytes())
        return digest.digest()


def collect(messages: Sequence[Message], manifest: Manifest) -> tuple[list[dict[str, Any]], list[Media]]:
    """Messages with bare media placeholders, and the media in order; pages of a multi-page TIFF follow one another."""
    if isinstance(messages, str | Mapping):
        raise PromptError("messages are not a list", fix='give [{"role": "user", "content": …}]')
    if not messages:
        raise PromptError("there are no messages")
    media: list[Media] = []
    cleaned = []
    for message in messages:
        if not isinstance(message, Mapping) or message.get("role") not in ROLES:
            raise PromptError(f"a message needs a role among {', '.join(ROLES)}")
        content = message.get("content")
        check_calls(message)
        if content is None and message.get("tool_calls"):
            content = ""
        if not isinstance(content, str):
            content = list(_parts(content, media, manifest))
        cleaned.append({**message, "content": content})
    if not media and not any(_has_text(message["content"]) for message in cleaned):
        raise PromptError("the prompt is empty", fix="give a text or an image")
    return cleaned, media


def _has_text(content: str | list[dict[str, Any]]) -> bool:
    return bool(content.strip()) if isinstance(content, str) else any(part.get("text", "").strip() for part in content)


def _parts(content: Any, media: list[Media], manifest: Manifest) -> Iterator[dict[str, Any]]:
    if not isinstance(content, Sequence):
        raise PromptError(f"a message's content is {type(content).__name__}", fix="give a string or a list of parts")
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            yield {"type": "text", "text": part["text"]}
        elif kind == "image" and "image" in part:
            pages = load_pages(part["image"])
            check_aspect(pages, part["image"])
            bounds = _image_bounds(part, manifest)
            media.extend(Media("image", (page,), bounds=bounds) for page in pages)
            yield from ({"type": "image"} for _ in pages)
        elif kind == "video" and manifest.tokens.video is None:
            raise PromptError("this model takes no videos", fix="give some of its frames as images")
        elif kind == "video" and isinstance(part.get("video"), list | tuple | str | Path | np.ndarray):
            media.append(_video(part, manifest))
            yield {"type": "video"}
        else:
            raise PromptError(
                f"cannot use the content part {str(part)[:80]!r}",
                fix='use {"type": "text", "text": …}, {"type": "image", "image": …} or '
                '{"type": "video", "video": path or [frame, …]}',
            )


def _image_bounds(part: Mapping[str, Any], manifest: Manifest) -> tuple[int, int]:
    """Least and most pixels of an image: what it asks for itself, else the bundle's."""
    budget, image = Budget.of(part), manifest.image
    high = budget.max_pixels or max(image.max_pixels, budget.min_pixels or 0)
    return min(budget.min_pixels or image.min_pixels, high), high


def _video(part: Mapping[str, Any], manifest: Manifest) -> Media:
    budget = Budget.of(part)

    def bounds(frames: int) -> tuple[int, int]:
        return budget.frame_bounds(frames, manifest.image.factor, manifest.llm.max_length)

    def resize(frames: int, size: tuple[int, int]) -> tuple[int, int]:
        low, high = bounds(frames)
        grid = resized_grid(size, frames, manifest.image, high, low)
        return grid.w * manifest.image.patch_size, grid.h * manifest.image.patch_size

    clip = load_clip(part["video"], Sampling.of(part), resize)
    width, height = clip.frames[0].size
    own = (1, width * height) if clip.resized else bounds(len(clip.frames))
    return Media("video", clip.frames, clip.fps, own, clip.times)
