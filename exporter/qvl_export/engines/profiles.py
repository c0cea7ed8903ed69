"""Optimization profiles for real use: pages within the pixel bounds, prefill in chunks, decode token by token.

A profile bounds the dynamic axes of a graph's inputs. The page profile covers the pixel bounds, limited by the maximum
length. Video profiles trade frames for patches per frame, so that no profile allocates memory for the most of both.
"""

from __future__ import annotations

import math

from qvl_runtime.answers.generate import PREFILL_CHUNK
from qvl_runtime.manifest import Bounds, Manifest, Profile
from qvl_runtime.media.video import FRAME_FACTOR, MAX_FRAMES, MAX_TOKENS
from qvl_runtime.prune.blocks import LEAST

PAGE_PIXELS = 1240 * 1754
"""Pixels of an A4 page at 150 dpi, the size for which vision kernels are chosen."""
WANTED = 64
"""Most logits positions per call; the runtime splits calls that need more."""
ANSWER_TOKENS = 128
"""Maximum number of tokens per call in the answer profile. At exactly 1, TensorRT-RTX 1.7 stores most weights a second
time in another order (one full-size layer of Qwen2.5-VL-3B: 881 instead of 782 MB); at 2 to 64 it fails on small
heads."""
MOST_ASPECT = 400
"""Largest aspect ratio of a resized image: 200 is the limit before resizing, which at most halves the shorter side."""


def profiles(graph: str, manifest: Manifest, kind: str) -> list[Profile]:
    """The profiles of a graph (`vision`, `llm`, `llm_decode`); `kind` is one of `engines.PROFILES`."""
    if graph != "vision":
        return _llm_profiles(manifest)
    if manifest.image.queries:
        return [_square(manifest)]
    return [_page(manifest), *(_videos(manifest) if kind == "video" else [])]


def _llm_profiles(manifest: Manifest) -> list[Profile]:
    longest = manifest.llm.max_length
    chunk, answer = min(PREFILL_CHUNK, longest), min(ANSWER_TOKENS, longest)
    return [
        _tokens("prompt", (1, chunk, chunk), (0, chunk, chunk), (1, 1, min(WANTED, chunk))),
        _tokens("answer", (1, 1, answer), (0, 0, answer), (1, 1, min(WANTED, answer))),
    ]


def _tokens(
    name: str, sequence: tuple[int, int, int], images: tuple[int, int, int], wanted: tuple[int, int, int]
) -> Profile:
    return Profile(name=name, axes={"sequence": _b(sequence), "image_tokens": _b(images), "wanted": _b(wanted)})


def _b(sizes: tuple[int, int, int]) -> Bounds:
    return Bounds(min=sizes[0], opt=sizes[1], max=sizes[2])


def _square(manifest: Manifest) -> Profile:
    """The page profile of a model whose images all have the same size."""
    patches = (manifest.image.square // manifest.image.patch_size) ** 2
    return Profile(name="page", axes={"frames": _b((1, 1, 1)), "patches": _b((patches, patches, patches))})


def _page(manifest: Manifest) -> Profile:
    image = manifest.image
    least, most, page = (
        round_(pixels / image.factor**2)
        for pixels, round_ in ((image.min_pixels, math.ceil), (image.max_pixels, int), (PAGE_PIXELS, int))
    )
    most = max(1, min(most, manifest.llm.max_length))
    least = min(least, most)
    return _frames("page", manifest, (1, 1, 1), (least, min(max(page, least), most), most))


def _videos(manifest: Manifest) -> list[Profile]:
    """Profiles for frames of up to `MAX_TOKENS` tokens, half and a quarter of it; smaller frames can be more."""
    image, longest = manifest.image, manifest.llm.max_length
    least = math.ceil(image.min_pixels / image.factor**2)
    found = []
    for most in (MAX_TOKENS, MAX_TOKENS // 2, MAX_TOKENS // 4):
        frames = max(1, min(2 * longest // most, MAX_FRAMES // FRAME_FACTOR))
        low, high = min(least, most), min(most, longest)
        counts = (1, max(1, min(longest // high, frames)), frames)
        found.append(_frames(f"video-{most}", manifest, counts, (low, high, high)))
    return found


def _frames(name: str, manifest: Manifest, frames: tuple[int, int, int], tokens: tuple[int, int, int]) -> Profile:
    """A vision profile for `frames` and image `tokens` per frame, each (min, opt, max)."""
    image = manifest.image
    unit, least = image.spatial_merge_size**2, min(LEAST, tokens[0])  # blank paper may be left out
    axes = {"frames": _b(frames), "patches": _b((unit * least, unit * tokens[1], unit * tokens[2]))}
    if image.window:
        side = image.window
        windows = (1, _square_windows(tokens[1], side), most_windows(tokens[2], side))
        slots = unit * side**2
        axes["window_slots"] = _b((slots * windows[0], slots * windows[1], slots * windows[2]))
        axes["windows"] = _b((windows[0] * frames[0], windows[1] * frames[1], windows[2] * frames[2]))
    return Profile(name=name, axes=axes)


def _square_windows(tokens: int, side: int) -> int:
    rows = math.isqrt(tokens)
    return math.ceil(rows / side) * math.ceil(tokens / rows / side)


def most_windows(tokens: int, side: int) -> int:
    """Most windows of `side` × `side` tokens that an image of up to `tokens` tokens can have, at any aspect ratio."""
    shapes = ((rows, min(tokens // rows, MOST_ASPECT * rows)) for rows in range(1, math.isqrt(tokens) + 1))
    return max(math.ceil(rows / side) * math.ceil(columns / side) for rows, columns in shapes)
