"""Vectors of the graphs' index inputs: rows and columns, table rows, windows, M-RoPE, the cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from qvl_runtime.manifest import VideoTiming
from qvl_runtime.positions import (
    Grid,
    VisionSpan,
    interpolation,
    mrope_positions,
    ntk_alpha,
    patch_positions,
    window_layout,
)
from qvl_runtime.sessions.feeds import cache_state

from .document import Case, Document
from .geometries import FAMILIES, TIMINGS, described

GRID = "[t, h, w]: temporal patches, patch rows, patch columns"
GRIDS = (Grid(1, 2, 2), Grid(1, 4, 6), Grid(2, 6, 4), Grid(1, 10, 14))


def positions() -> Document:
    return Document(
        "`patch_positions`: row and column of every patch of one frame, in merge order.",
        {"grid": GRID, "merge": "`spatial_merge_size`"},
        {"patch_positions": "[row, column] of each patch"},
        (
            Case(
                f"{grid.h}x{grid.w}, merge {merge}",
                {"grid": _grid(grid), "merge": merge},
                {"patch_positions": patch_positions(grid, merge)},
            )
            for grid, merge in (*((grid, 2) for grid in GRIDS), (Grid(1, 6, 9), 3), (Grid(1, 2, 3), 1))
        ),
    )


def interpolations() -> Document:
    return Document(
        "`interpolation_indices` and `interpolation_weights`: a table of learned positions, interpolated over a frame.",
        {"grid": GRID, "merge": "`spatial_merge_size`", "side": "`position_table`: the table has side · side rows"},
        {
            "indices": "[4, patches]: rows of the table around each patch in merge order",
            "weights": "[4, patches] float32: their weights",
        },
        _interpolations(),
    )


def _interpolations() -> Iterator[Case]:
    for grid, side in ((Grid(1, 4, 6), 7), (Grid(1, 2, 2), 48), (Grid(1, 10, 14), 48), (Grid(1, 8, 2), 4)):
        indices, weights = interpolation(grid, 2, side)
        given = {"grid": _grid(grid), "merge": 2, "side": side}
        yield Case(f"{grid.h}x{grid.w} of {side}x{side}", given, {"indices": indices, "weights": weights})


def windows() -> Document:
    return Document(
        "`window_gather`, `window_lengths` and `window_scatter`: attention windows of one frame (Qwen2.5-VL).",
        {"grid": GRID, "merge": "`spatial_merge_size`", "window": "side of a window in merged cells"},
        {
            "window_gather": "the patch in each slot of each window; padding repeats patch 0",
            "window_lengths": "patches in each window, of one frame",
            "window_scatter": "the slot of each patch",
        },
        (_windows(grid, side) for grid, side in ((Grid(1, 4, 6), 2), (Grid(1, 10, 14), 4), (Grid(2, 2, 2), 4))),
    )


def _windows(grid: Grid, side: int) -> Case:
    found = window_layout(grid, 2, side)
    return Case(
        f"{grid.h}x{grid.w}, windows of {side}",
        {"grid": _grid(grid), "merge": 2, "window": side},
        {"window_gather": found.gather, "window_lengths": found.lengths, "window_scatter": found.scatter},
    )


Part = dict[str, Any]
"""Of a prompt: `text` tokens, `queries`, an `image` grid with its `kept` cells, or a `video` grid and its `seconds`."""


def mrope() -> Document:
    return Document(
        "`position_ids`: time, row and column of every token of a prompt, for every family.",
        {
            "family": "whose manifest has `video` and `flat_positions`",
            "video": "the manifest's: how videos are positioned",
            "flat_positions": "the manifest's: whether image tokens are positioned as text is",
            "merge": "`spatial_merge_size`; an image of [t, h, w] patches has t · h/merge · w/merge cells",
            "parts": "of the prompt: `text` tokens; an `image` grid in patches with its `kept` cells if not all are; "
            "a `video` grid with the `seconds` of a temporal patch. With `video.timestamps` a video's temporal "
            "patches stand as images with text between them, as the prompt has them; `queries` counts image tokens "
            "without a grid",
        },
        {"positions": "[3, tokens]", "next_position": "of the first token of the answer, on all axes"},
        _mrope(),
    )


PROMPTS: dict[str, list[Part]] = {
    "text": [{"text": 7}],
    "an image": [{"text": 3}, {"image": [1, 4, 6]}, {"text": 4}],
    "two images": [{"text": 2}, {"image": [1, 2, 8]}, {"text": 2}, {"image": [1, 6, 2]}, {"text": 1}],
    "an image of which some is left out": [
        {"text": 2},
        {"image": [1, 6, 8], "kept": [0, 1, 5, 11]},
        {"text": 2},
    ],
}
CLIP: list[Part] = [{"text": 3}, {"video": [3, 4, 4], "seconds": 1.0}, {"text": 2}]
SLOW: list[Part] = [{"text": 1}, {"video": [4, 2, 6], "seconds": 2.3}, {"text": 3}, {"image": [1, 4, 4]}, {"text": 1}]
TIMED: list[Part] = [
    {"text": 5},
    *({"image": [1, 4, 4]}, {"text": 6}, {"image": [1, 4, 4]}, {"text": 6}, {"image": [1, 4, 4]}),
    {"text": 3},
]
"""A video of three temporal patches, each with its time as text before it."""


def _mrope() -> Iterator[Case]:
    for family in FAMILIES:
        timing = TIMINGS[family]
        if family == "qwen":
            yield mrope_case(family, "two images", [{"text": 3}, {"queries": 256}, {"text": 4}, {"queries": 256}])
            continue
        videos = {"a video": TIMED} if timing.timestamps else {"a video": CLIP, "a slow video and an image": SLOW}
        for name, parts in (PROMPTS | videos).items():
            yield mrope_case(family, name, parts)


def mrope_case(family: str, name: str, parts: Sequence[Part]) -> Case:
    timing, flat = TIMINGS[family], family == "qwen"
    length, spans = placed(parts, timing)
    found = mrope_positions(length, [] if flat else spans)
    given = {
        "family": family,
        "video": described(timing),
        "flat_positions": flat,
        "merge": 1 if flat else 2,
        "parts": parts,
    }
    return Case(f"{family}: {name}", given, {"positions": found, "next_position": int(found.max()) + 1})


def placed(parts: Sequence[Part], timing: VideoTiming) -> tuple[int, list[VisionSpan]]:
    """The number of tokens of a prompt's parts, and the spans of its media."""
    token, spans = 0, []
    for part in parts:
        if "text" in part or "queries" in part:
            token += part.get("text", 0) + part.get("queries", 0)
            continue
        t, h, w = part.get("image") or part["video"]
        rate, kept = timing.tokens_per_second, part.get("kept")
        interval = rate * part["seconds"] if "video" in part and rate else 1.0
        spans.append(VisionSpan(token, t, h // 2, w // 2, interval, kept and tuple(kept)))
        token = spans[-1].end
    return token, spans


def ntk() -> Document:
    return Document(
        "`ntk_alpha` (Qwen-VL): the factor by which the length of a prompt slows rotary frequencies down.",
        {"length": "tokens of the prompt", "trained": "`ntk_length` of the manifest; 0: never"},
        {"ntk_alpha": ""},
        (
            Case(f"{length} of {trained}", {"length": length, "trained": trained}, {"ntk_alpha": alpha})
            for length in (1, 2047, 2048, 2049, 4096, 4097, 8192, 8193, 20000)
            for trained in ((2048, 0) if length == 4097 else (2048,))
            for alpha in (ntk_alpha(length, trained),)
        ),
    )


def cache_inputs() -> Document:
    return Document(
        "The language graph's inputs that describe the cache, by target and form of the cache.",
        {
            "target": "of the bundle",
            "cache_form": "of the bundle: a concat cache has no room beyond its tokens, and no `write_indices`",
            "past": "tokens in the cache before the call",
            "total": "tokens in the cache after the call",
            "capacity": "tokens that the buffer has room for",
        },
        {
            "seqlens_k": "[1] int32",
            "total_sequence_length": "int32 without axes",
            "write_indices": "[1] int64",
            "attention_mask": "[new tokens, capacity], true where the token in the row sees the one in the column",
        },
        _cache_inputs(),
    )


def _cache_inputs() -> Iterator[Case]:
    states = (("cpu", "scatter", 3, 5, 8), ("cpu", "scatter", 0, 4, 4), ("portable", "scatter", 3, 5, 8))
    for target, form, past, total, capacity in (*states, ("portable", "concat", 3, 5, 5)):
        feeds = cache_state(target, past, total, capacity)
        if form == "concat":
            del feeds["write_indices"]
        if "attention_mask" in feeds:
            feeds["attention_mask"] = feeds["attention_mask"][0, 0]
        given = {"target": target, "cache_form": form, "past": past, "total": total, "capacity": capacity}
        yield Case(f"{target}, {form}: {past} of {total}", given, feeds)


def _grid(grid: Grid) -> list[int]:
    return [grid.t, grid.h, grid.w]
