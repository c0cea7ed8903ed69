"""Splits chat messages into loaded media and checked messages that are ready for a chat template."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..common.checks import abbreviated
from ..errors import PromptError
from ..manifest import ImageGeometry, Manifest
from ..media.images import Frame, check_aspect, load_pages
from ..media.video import DEFAULT_FPS, FrameSampling, PixelBudget, load_clip
from ..positions import Grid
from ..preprocess import Pixels, resized_frames, resized_grid
from ..prune.rule import Rule, parse_rule
from ..tools import check_calls
from .part_keys import PART_KEYS, Reads, check_message, extra_keys, read_nothing

ROLES = ("system", "user", "assistant", "tool")
URL_PARTS = {"image_url": "image", "video_url": "video"}
"""OpenAI's part types and the types here that they correspond to."""
Message = Mapping[str, Any]


@dataclass(frozen=True)
class Media:
    """An image (one frame) or a video: RGB frames of one size, frames per second, and frame `times` (video files only).

    `bounds` are the minimum and maximum pixels of a resized frame (None: the bundle's); `size`, if a size was
    requested, replaces the frames' own size. `prune` says what is left out (None: what the prompt's default says).
    """

    kind: str
    frames: tuple[Frame, ...]
    fps: float = DEFAULT_FPS
    bounds: tuple[int, int] | None = None
    times: tuple[float, ...] = ()
    size: tuple[int, int] | None = None
    prune: Rule | None = None
    _held: dict[Grid, Pixels] = field(default_factory=dict, init=False, compare=False, repr=False)

    def resized(self, geometry: ImageGeometry, grid: Grid) -> Pixels:
        """Returns the frames resized to `grid`: those that `hold` keeps, which it then keeps no longer, or new ones."""
        held = self._held.pop(grid, None)
        return resized_frames(self.frames, geometry, grid) if held is None else held

    def hold(self, pixels: Pixels, grid: Grid) -> None:
        """Keeps resized frames, in place of those of another grid, until they are asked for once."""
        self._held.clear()
        self._held[grid] = pixels

    def grid(self, bound: int, manifest: Manifest) -> Grid:
        """Returns the patch grid after resizing to at most `bound` pixels per frame, within the media's own bounds."""
        low, high = self.bounds or (manifest.image.min_pixels, manifest.image.max_pixels)
        size = self.size or self.frames[0].size
        return resized_grid(size, len(self.frames), manifest.image, min(high, bound), low)

    def max_pixels(self, manifest: Manifest) -> int:
        """Maximum pixels of a resized frame: the media's own bound, else the bundle's."""
        return self.bounds[1] if self.bounds else manifest.image.max_pixels

    @cached_property
    def digest(self) -> bytes:
        """A hash of the kind, the size and all pixels."""
        digest = hashlib.sha256(repr((self.kind, self.frames[0].size)).encode())
        for frame in self.frames:
            digest.update(frame.tobytes())
        return digest.digest()


def collect(
    messages: Sequence[Message], manifest: Manifest, reads: Reads = read_nothing
) -> tuple[list[dict[str, Any]], list[Media]]:
    """Returns messages with bare media placeholders, and the media in order; each page of a TIFF becomes one image.

    Raises PromptError for malformed messages and for unknown keys, unless the chat template `reads` them.
    """
    if isinstance(messages, str | Mapping) or not isinstance(messages, Iterable | None):
        raise PromptError("messages must be a list", fix='give [{"role": "user", "content": …}]')
    if not messages:
        raise PromptError("there are no messages")
    media: list[Media] = []
    cleaned = []
    for message in messages:
        role = message.get("role") if isinstance(message, Mapping) else None
        if not isinstance(role, str) or role not in ROLES:
            raise PromptError(f"the role of a message must be one of {', '.join(ROLES)}")
        check_message(message, reads)
        content = message.get("content")
        check_calls(message)
        if content is None and message.get("tool_calls"):
            content = ""
        if not isinstance(content, str):
            content = list(_parts(content, media, manifest, reads))
        cleaned.append({**message, "content": content})
    if not media and not any(_has_text(message["content"]) for message in cleaned):
        raise PromptError("the prompt is empty", fix="give a text or an image")
    return cleaned, media


def _has_text(content: str | list[dict[str, Any]]) -> bool:
    return bool(content.strip()) if isinstance(content, str) else any(part.get("text", "").strip() for part in content)


def _parts(content: Any, media: list[Media], manifest: Manifest, reads: Reads) -> Iterator[dict[str, Any]]:
    if not isinstance(content, Sequence):
        raise PromptError(f"the content of a message must be a string or a list of parts, got {type(content).__name__}")
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        extra = extra_keys(kind, part, reads) if isinstance(kind, str) and kind in PART_KEYS else {}
        kind, source = _kind_and_source(part, kind)
        if kind == "text" and isinstance(source, str):
            yield {"type": "text", "text": source, **extra}
        elif kind == "image" and source is not None:
            images = _images(source, part, manifest)
            media += images
            yield from ({"type": "image", **extra} for _ in images)
        elif kind == "video" and manifest.tokens.video is None:
            raise PromptError("this model does not accept videos", fix="give some of its frames as images")
        elif kind == "video" and isinstance(source, list | tuple | str | Path | bytes | np.ndarray):
            media.append(_video(source, part, manifest))
            yield {"type": "video", **extra}
        else:
            raise PromptError(
                f"cannot use the content part {abbreviated(part, 80)!r}",
                fix='use {"type": "text", "text": …}, {"type": "image", "image": …} or '
                '{"type": "video", "video": path or [frame, …]}',
            )


def _kind_and_source(part: Any, kind: Any) -> tuple[Any, Any]:
    """Returns the type and the content of a part; the content is None if the type is unknown."""
    if not isinstance(kind, str) or kind not in PART_KEYS:
        return kind, None
    source = part.get(kind)
    if kind in URL_PARTS and isinstance(source, Mapping):
        _check_url(kind, source)
        source = source["url"]
    return URL_PARTS.get(kind, kind), source


def _check_url(kind: str, source: Mapping[str, Any]) -> None:
    """Raises PromptError unless `url` is a string and no other key would have to be respected."""
    if not isinstance(source.get("url"), str):
        raise PromptError(f"an {kind} has no url", fix=f'write {{"type": "{kind}", "{kind}": {{"url": …}}}}')
    for key, value in source.items():
        if key == "detail" and value is not None and not (isinstance(value, str) and value in ("auto", "high")):
            raise PromptError(f"detail {value!r:.40} is not supported", fix="give max_pixels beside the url")
        if key not in ("url", "detail") and value is not None:
            raise PromptError(f"an {kind} has the unknown key {abbreviated(key, 60)!r}", fix="its keys are url, detail")


def _images(source: Any, part: Mapping[str, Any], manifest: Manifest) -> list[Media]:
    """Returns the pages of an image source: one, except for multi-page TIFFs."""
    budget = _budget(part, manifest)
    size = budget.resized_to(manifest.image.factor)
    pages = load_pages(source)
    if size is None:
        check_aspect(pages, source)
    bounds = (1, size[0] * size[1]) if size else _image_bounds(budget, manifest)
    rule = parse_rule(part.get("prune"))
    return [Media("image", (page,), bounds=bounds, size=size, prune=rule) for page in pages]


def _budget(part: Mapping[str, Any], manifest: Manifest) -> PixelBudget:
    """Returns the sizes that a part requests; raises PromptError for any if the model has one fixed image size."""
    budget = PixelBudget.from_part(part)
    if manifest.image.square and budget != PixelBudget():
        raise PromptError(f"this model resizes every image to {manifest.image.square} × {manifest.image.square} pixels")
    return budget


def _image_bounds(budget: PixelBudget, manifest: Manifest) -> tuple[int, int]:
    """Returns the minimum and maximum pixels of an image: those its part requests, else the bundle's."""
    image = manifest.image
    high = budget.max_pixels or max(image.max_pixels, budget.min_pixels or 0)
    return min(budget.min_pixels or image.min_pixels, high), high


def _video(source: Any, part: Mapping[str, Any], manifest: Manifest) -> Media:
    budget = _budget(part, manifest)
    size = budget.resized_to(manifest.image.factor)

    def bounds(frames: int) -> tuple[int, int]:
        if size:
            return 1, size[0] * size[1]
        return budget.frame_bounds(frames, manifest.image.factor, manifest.llm.max_length)

    def resize(frames: int, own: tuple[int, int]) -> tuple[int, int]:
        low, high = bounds(frames)
        grid = resized_grid(size or own, frames, manifest.image, high, low)
        return grid.w * manifest.image.patch_size, grid.h * manifest.image.patch_size

    clip = load_clip(source, FrameSampling.from_part(part), resize)
    width, height = clip.frames[0].size
    kept = (1, width * height) if clip.resized else bounds(len(clip.frames))
    return Media("video", clip.frames, clip.fps, kept, clip.times, size, parse_rule(part.get("prune")))
