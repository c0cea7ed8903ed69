"""Turns chat messages into token ids: collects media, scales them to fit, expands placeholders, assigns positions."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ..common.arrays import Ints
from ..errors import PromptError
from ..manifest import ImageGeometry, Manifest
from ..positions import Grid, VisionSpan, mrope_positions, ntk_alpha, text_positions
from ..preprocess import Patches, patches_of_pixels
from ..prune.kept import Kept
from ..prune.rule import Rule
from .content import Media, Message, collect
from .part_keys import Reads, read_nothing
from .selection import Selection
from .timestamps import VISION_BLOCK, patch_times, write_times

__all__ = [
    "Media",
    "Message",
    "PlacedMedia",
    "Prompt",
    "ScaledImageWarning",
    "build_prompt",
    "collect",
    "fit_pixel_budget",
    "place_media",
]


class ScaledImageWarning(UserWarning):
    """An image was scaled down below its own pixel bound, to fit the bundle's maximum length."""


@dataclass(frozen=True)
class PlacedMedia:
    """Media, or some temporal patches of it, with its span in the prompt and the patch grid it is resized to.

    Its features start at row `first_row` of the media's features, which are those of the `kept` blocks (None: of all).
    """

    media: Media
    span: VisionSpan
    grid: Grid
    first_row: int = 0
    kept: Kept | None = None

    @property
    def key(self) -> bytes:
        """Equal keys mean equal image features."""
        return self.media.digest + repr(self.grid).encode() + (b"" if self.kept is None else self.kept.digest)

    def patches(self, geometry: ImageGeometry) -> Patches:
        """Returns the pixels of all blocks in the layout that the vision graph takes."""
        return patches_of_pixels(self.media.resized(geometry, self.grid), geometry, self.grid)


@dataclass(frozen=True)
class Prompt:
    """Token `ids` [S], `positions` [3, S] and placed media; the last `answer_tokens` tokens belong to an answer.

    `ntk_alpha` is the scale of the RoPE base (see `positions.ntk_alpha`); 1 leaves it unchanged.
    """

    ids: Ints
    positions: Ints
    placed: tuple[PlacedMedia, ...]
    answer_tokens: int = 0
    ntk_alpha: float = 1.0

    @cached_property
    def next_position(self) -> int:
        """The M-RoPE position of the first generated token, on all three axes."""
        return int(self.positions.max()) + 1

    def followed_by(self, ids: Ints) -> Prompt:
        """Returns the prompt followed by the text tokens of an answer."""
        positions = np.concatenate((self.positions, text_positions(self.next_position, len(ids))), axis=1)
        answer_tokens, ids = self.answer_tokens + len(ids), np.concatenate((self.ids, ids))
        return replace(self, ids=ids, positions=positions, answer_tokens=answer_tokens)

    def prefix_keys(self) -> Ints:
        """Returns keys of the tokens [S]: equal prefixes of keys mean equal KV cache entries.

        Image tokens get negative numbers derived from pixels and temporal interval, since the interval changes the
        positions of a video and of all tokens after it. Text tokens get their ids, shifted if `ntk_alpha` is above 1.
        """
        keys = text_keys(self.ids, self.ntk_alpha).copy()
        for item in self.placed:
            identity = item.key + repr((item.span.interval, item.first_row)).encode()
            base = int.from_bytes(hashlib.sha256(identity).digest()[:7], "big")
            keys[item.span.start : item.span.end] = -1 - base - np.arange(item.span.tokens)
        return keys


def text_keys(ids: Ints, ntk_alpha: float) -> Ints:
    """Returns the `prefix_keys` of text tokens: their ids, shifted beyond all ids if `ntk_alpha` is above 1."""
    return ids if ntk_alpha == 1 else ids + (int(ntk_alpha - 1) << 32)


def build_prompt(
    messages: Sequence[Message],
    manifest: Manifest,
    render: Callable[[Sequence[Message]], str],
    encode: Callable[[str], Sequence[int]],
    reserve: int,
    reads: Reads = read_nothing,
    prune: Rule | None = None,
) -> Prompt:
    """Builds a prompt that leaves `reserve` tokens of the bundle's maximum length for the answer.

    `reads` tells which extra message keys the chat template reads, `prune` what is left out of media that do not say
    it themselves. Raises PromptError for malformed messages and for prompts that cannot fit, before any graph runs.
    """
    template_messages, media = collect(messages, manifest, reads)
    tokens = manifest.tokens
    raw = np.array(encode(_with_timestamps(render(template_messages), media, manifest)), dtype=np.int64)
    placeholders = np.flatnonzero(np.isin(raw, [token for token in (tokens.image, tokens.video) if token is not None]))
    kinds = [item.kind for item in media for _ in range(_count_blocks(item, manifest))]
    expected = [tokens.image if kind == "image" else tokens.video for kind in kinds]
    if raw[placeholders].tolist() != expected:
        raise PromptError(
            f"the prompt has {len(placeholders)} image or video placeholders for {len(media)} images and videos",
            fix="do not write <|image_pad|>, <|video_pad|> or <imgpad> in a text",
        )
    budget = manifest.llm.max_length - reserve - (len(raw) - len(placeholders))
    if budget < len(media):
        raise PromptError(
            f"a prompt of {len(raw)} tokens and an answer of {reserve} do not fit the maximum length of "
            f"{manifest.llm.max_length}",
            fix="shorten it, lower --max-new-tokens, or export with a larger --max-length",
        )
    selection = Selection(manifest, prune)
    bounds = fit_pixel_budget(media, manifest, budget, selection)
    return _expand(raw, placeholders, media, bounds, manifest, selection)


def _with_timestamps(text: str, media: Sequence[Media], manifest: Manifest) -> str:
    """Returns the rendered prompt, with timestamps in its videos if the family uses them."""
    if not manifest.video.timestamps:
        return text
    videos = [_frame_times(item) for item in media if item.kind == "video"]
    seconds = [patch_times(times, manifest.image.temporal_patch_size) for times in videos]
    return write_times(text, seconds, manifest.image_tokens or VISION_BLOCK)


def _frame_times(video: Media) -> Sequence[float]:
    """Returns the time of each frame: from its file, else evenly spaced."""
    return video.times or [index / video.fps for index in range(len(video.frames))]


def _count_blocks(item: Media, manifest: Manifest) -> int:
    """Returns the number of vision blocks of an item: a video with timestamps has one per temporal patch."""
    timed = manifest.video.timestamps and item.kind == "video"
    return -(-len(item.frames) // manifest.image.temporal_patch_size) if timed else 1


def fit_pixel_budget(
    media: Sequence[Media], manifest: Manifest, budget: int, selection: Selection | None = None
) -> list[int]:
    """Returns a pixel bound for every item so that all image tokens together stay within `budget`.

    Warns with ScaledImageWarning if it had to lower the bounds; raises PromptError if even the smallest do not fit.
    """
    geometry, chosen = manifest.image, selection or Selection(manifest)

    def fits(bound: int) -> bool:
        return chosen.fit([(item, item.grid(bound, manifest)) for item in media], budget)

    own_bounds = [item.max_pixels(manifest) for item in media]
    unit = geometry.factor**2
    with chosen.keeping_drawings():
        if not media or fits(max(own_bounds)):
            return own_bounds
        low, high = -(-geometry.min_pixels // unit), -(-max(own_bounds) // unit)
        if not fits(low * unit):
            raise PromptError(
                f"{len(media)} images or videos do not fit into {budget} tokens, even at the model's smallest image "
                "size",
                fix="give fewer of them, or export with a larger --max-length",
            )
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle * unit) else (low, middle)
    warnings.warn(
        f"images were scaled down to {low * unit} pixels each to fit the maximum length of "
        f"{manifest.llm.max_length} tokens",
        ScaledImageWarning,
        stacklevel=2,
    )
    return [min(low * unit, bound) for bound in own_bounds]


def _expand(
    raw: Ints,
    placeholders: Ints,
    media: Sequence[Media],
    bounds: Sequence[int],
    manifest: Manifest,
    selection: Selection,
) -> Prompt:
    """Expands every placeholder to one token per kept cell of its part of the grid."""
    repeats = np.ones(len(raw), dtype=np.int64)
    placed: list[PlacedMedia] = []
    shift, remaining = 0, iter(placeholders.tolist())
    for item, bound in zip(media, bounds, strict=True):
        entire, first_row = place_media(item, 0, bound, manifest, selection), 0
        for part in _parts(entire, _count_blocks(item, manifest)):
            placeholder = next(remaining)
            span = replace(part, start=placeholder + shift)
            placed.append(replace(entire, span=span, first_row=first_row))
            repeats[placeholder] = span.tokens
            first_row += span.tokens
            shift += span.tokens - 1
    ids = np.repeat(raw, repeats)
    spans = [] if manifest.llm.flat_positions else [item.span for item in placed]
    alpha = ntk_alpha(len(ids), manifest.llm.ntk_length)
    return Prompt(ids, mrope_positions(len(ids), spans), tuple(placed), ntk_alpha=alpha)


def _parts(placed: PlacedMedia, count: int) -> Iterator[VisionSpan]:
    """Yields the spans of the `count` vision blocks of one item, which share its temporal patches evenly."""
    each = placed.span.t // count
    for index in range(count):
        kept = None if placed.kept is None else placed.kept.flat(index * each, each, placed.span.h * placed.span.w)
        yield replace(placed.span, t=each, kept=kept)


def place_media(
    item: Media, start: int, bound: int, manifest: Manifest, selection: Selection | None = None
) -> PlacedMedia:
    """Places media at token `start` of a prompt, resized to at most `bound` pixels per frame.

    Without a `selection` nothing is left out.
    """
    merge, queries = manifest.image.spatial_merge_size, manifest.image.queries
    grid = item.grid(bound, manifest)
    h, w = (1, queries) if queries else (grid.h // merge, grid.w // merge)
    kept = selection.kept(item, grid) if selection else None
    span = VisionSpan(start, grid.t, h, w, _interval(item, manifest))
    span = span if kept is None else replace(span, kept=kept.flat(0, grid.t, h * w))
    return PlacedMedia(item, span, grid, kept=kept)


def _interval(item: Media, manifest: Manifest) -> float:
    """Temporal positions per temporal patch: tokens_per_second · seconds per patch; 1 for images or without a rate."""
    rate = manifest.video.tokens_per_second
    if item.kind == "image" or rate is None:
        return 1.0
    return rate * (manifest.image.temporal_patch_size / item.fps)
