"""From chat messages to token ids: media collected, scaled to fit, placeholders expanded, positions assigned."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from .errors import PromptError
from .manifest import Manifest
from .media import check_aspect, load_frames, load_pages
from .positions import Grid, Ints, VisionSpan, mrope_positions
from .preprocess import resized_grid
from .tools import check_calls

DEFAULT_FPS = 2.0
MIN_FPS, MAX_FPS = 0.01, 1000
ROLES = ("system", "user", "assistant", "tool")
Message = Mapping[str, Any]


class ScaledImageWarning(UserWarning):
    """An image was scaled down further than its checkpoint asks, to fit the bundle's maximum length."""


@dataclass(frozen=True)
class Media:
    """An image (one frame) or a video: RGB frames of one size and the frames a second."""

    kind: str
    frames: tuple[Image.Image, ...]
    fps: float = DEFAULT_FPS

    @cached_property
    def digest(self) -> bytes:
        """A hash of all pixels and the size."""
        digest = hashlib.sha256(repr((self.kind, self.frames[0].size)).encode())
        for frame in self.frames:
            digest.update(frame.tobytes())
        return digest.digest()


@dataclass(frozen=True)
class Placed:
    """Media with its place in the prompt and the pixel bound it was resized to."""

    media: Media
    span: VisionSpan
    max_pixels: int
    grid: Grid

    @property
    def key(self) -> bytes:
        """Equal keys mean equal image features."""
        return self.media.digest + repr(self.grid).encode()


@dataclass(frozen=True)
class Prompt:
    """`ids` [S], `positions` [3, S], and the media at their image tokens."""

    ids: Ints
    positions: Ints
    placed: tuple[Placed, ...]

    @property
    def next_position(self) -> int:
        """The M-RoPE position of the first generated token, on all three axes."""
        return int(self.positions.max()) + 1

    def followed_by(self, ids: Ints) -> Prompt:
        """The prompt with text tokens, such as those of an answer, after it."""
        tail = np.broadcast_to(self.next_position + np.arange(len(ids)), (3, len(ids)))
        positions = np.concatenate((self.positions, tail), axis=1)
        return Prompt(np.concatenate((self.ids, ids)), positions, self.placed)

    def prefix_keys(self) -> Ints:
        """Ids with image tokens replaced by negative numbers derived from their pixels and clock: equal keys, equal KV.

        The clock moves the positions of a video and of all that follows it.
        """
        keys = self.ids.copy()
        for item in self.placed:
            identity = item.key + repr(item.span.interval).encode()
            base = int.from_bytes(hashlib.sha256(identity).digest()[:7], "big")
            keys[item.span.start : item.span.end] = -1 - base - np.arange(item.span.tokens)
        return keys


def build_prompt(
    messages: Sequence[Message],
    manifest: Manifest,
    render: Callable[[Sequence[Message]], str],
    encode: Callable[[str], Sequence[int]],
    reserve: int,
) -> Prompt:
    """A prompt that leaves `reserve` tokens of the bundle's maximum length for the answer.

    Raises PromptError for malformed messages and for prompts that cannot fit, before any graph runs.
    """
    template_messages, media = collect(messages)
    tokens = manifest.tokens
    raw = np.array(encode(render(template_messages)), dtype=np.int64)
    places = np.flatnonzero((raw == tokens.image) | (raw == tokens.video))
    expected = [tokens.image if item.kind == "image" else tokens.video for item in media]
    if raw[places].tolist() != expected:
        raise PromptError(
            f"the prompt has {len(places)} image or video placeholders for {len(media)} given",
            fix="do not write <|image_pad|> or <|video_pad|> in a text",
        )
    budget = manifest.llm.max_length - reserve - (len(raw) - len(media))
    if budget < len(media):
        raise PromptError(
            f"a prompt of {len(raw)} tokens and an answer of {reserve} do not fit the maximum length of "
            f"{manifest.llm.max_length}",
            fix="shorten it, lower --max-new-tokens, or export with a larger --max-length",
        )
    bounds = fit(media, manifest, budget)
    return _expand(raw, places, media, bounds, manifest)


def collect(messages: Sequence[Message]) -> tuple[list[dict[str, Any]], list[Media]]:
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
            content = list(_parts(content, media))
        cleaned.append({**message, "content": content})
    if not media and not any(_has_text(message["content"]) for message in cleaned):
        raise PromptError("the prompt is empty", fix="give a text or an image")
    return cleaned, media


def _has_text(content: str | list[dict[str, Any]]) -> bool:
    return bool(content.strip()) if isinstance(content, str) else any(part.get("text", "").strip() for part in content)


def _parts(content: Any, media: list[Media]) -> Iterator[dict[str, Any]]:
    if not isinstance(content, Sequence):
        raise PromptError(f"a message's content is {type(content).__name__}", fix="give a string or a list of parts")
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            yield {"type": "text", "text": part["text"]}
        elif kind == "image" and "image" in part:
            pages = load_pages(part["image"])
            check_aspect(pages, part["image"])
            media.extend(Media("image", (page,)) for page in pages)
            yield from ({"type": "image"} for _ in pages)
        elif kind == "video" and isinstance(part.get("video"), list | tuple):
            media.append(Media("video", tuple(load_frames(part["video"])), _fps(part.get("fps", DEFAULT_FPS))))
            yield {"type": "video"}
        else:
            raise PromptError(
                f"cannot use the content part {str(part)[:80]!r}",
                fix='use {"type": "text", "text": …}, {"type": "image", "image": …} or '
                '{"type": "video", "video": [frame, …]}',
            )


def _fps(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not MIN_FPS <= value <= MAX_FPS:
        raise PromptError(f"a video has {value!r} frames a second", fix=f"give a number from {MIN_FPS} to {MAX_FPS}")
    return float(value)


def fit(media: Sequence[Media], manifest: Manifest, budget: int) -> list[int]:
    """The pixel bound of every item so that all image tokens together stay within `budget`.

    Warns with ScaledImageWarning when that is below the bundle's own bound; raises PromptError when nothing fits.
    """
    geometry = manifest.image

    def tokens(bound: int) -> int:
        grids = (resized_grid(item.frames[0].size, len(item.frames), geometry, bound) for item in media)
        return sum(grid.tokens(geometry.spatial_merge_size) for grid in grids)

    if not media or tokens(geometry.max_pixels) <= budget:
        return [geometry.max_pixels] * len(media)
    unit = geometry.factor**2
    low, high = -(-geometry.min_pixels // unit), geometry.max_pixels // unit
    if tokens(low * unit) > budget:
        raise PromptError(
            f"{len(media)} images or videos do not fit into {budget} tokens, even at the least size the model reads",
            fix="give fewer of them, or export with a larger --max-length",
        )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if tokens(middle * unit) <= budget else (low, middle)
    warnings.warn(
        f"images were scaled down to {low * unit} pixels each to fit the maximum length of "
        f"{manifest.llm.max_length} tokens",
        ScaledImageWarning,
        stacklevel=2,
    )
    return [low * unit] * len(media)


def _expand(raw: Ints, places: Ints, media: Sequence[Media], bounds: Sequence[int], manifest: Manifest) -> Prompt:
    """One placeholder becomes as many tokens as its grid has merged cells."""
    repeats = np.ones(len(raw), dtype=np.int64)
    placed: list[Placed] = []
    shift = 0
    for place, item, bound in zip(places.tolist(), media, bounds, strict=True):
        placed.append(put(item, place + shift, bound, manifest))
        repeats[place] = placed[-1].span.tokens
        shift += placed[-1].span.tokens - 1
    ids = np.repeat(raw, repeats)
    return Prompt(ids, mrope_positions(len(ids), [item.span for item in placed]), tuple(placed))


def put(item: Media, start: int, bound: int, manifest: Manifest) -> Placed:
    """The media at token `start` of a prompt, resized to at most `bound` pixels."""
    merge = manifest.image.spatial_merge_size
    grid = resized_grid(item.frames[0].size, len(item.frames), manifest.image, bound)
    span = VisionSpan(start, grid.t, grid.h // merge, grid.w // merge, _interval(item, manifest))
    return Placed(item, span, bound, grid)


def _interval(item: Media, manifest: Manifest) -> float:
    """Positions a temporal patch spans: tokens_per_second · seconds a patch for videos of families with a clock."""
    rate = manifest.video.tokens_per_second
    if item.kind == "image" or rate is None:
        return 1.0
    return rate * (manifest.image.temporal_patch_size / item.fps)
