"""Vectors of images: the size that they are resized to, their pixels, their patches, and the blocks that are kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
from PIL import Image

from qvl_runtime.manifest import ImageGeometry
from qvl_runtime.media.video import PixelBudget, evenly_spaced
from qvl_runtime.positions import Grid
from qvl_runtime.preprocess import image_tokens, patchify, resized_grid
from qvl_runtime.prune.blocks import kept_blocks
from qvl_runtime.prune.kept import Kept, only
from qvl_runtime.resize import smart_resize
from qvl_runtime.sessions.feeds import vision_feeds

from .document import Case, Document
from .geometries import CLIP, HALVES, IMAGES, described
from .pictures import FORMULAS, picture, pixels, sha256

PICTURE = "formula, width, height and frame (0 unless given) of the pixels; `shared.formulas` defines them"


def resize() -> Document:
    return Document(
        "The resize rule: which size an image is resized to, and how many image tokens that is.",
        {
            "image": "the geometry of a family's bundle; `shared.images` has each",
            "size": "[width, height] of the image in pixels",
            "frames": "number of frames; an image is one",
            "max_pixels": "bound of the resized image, if it is not the geometry's own",
        },
        {"size": "[width, height] after resizing", "grid": "[t, h, w] in patches", "image_tokens": "their number"},
        _resized(),
        {"images": {name: described(image) for name, image in IMAGES.items()}},
    )


def _resized() -> Iterator[Case]:
    sizes = ((1240, 1754), (640, 480), (150, 90), (42, 70), (98, 14), (1, 200), (8000, 6000), (2000, 10), (29, 3001))
    for family in ("qwen", "qwen2_vl", "qwen3_vl"):
        for size in sizes:
            yield _resized_case(family, size, 1, None)
    yield _resized_case("qwen2_5_vl", (1240, 1754), 1, 200_704)
    yield _resized_case("qwen2_5_vl", (640, 480), 1, 3136)
    yield _resized_case("qwen3_vl", (30, 3000), 1, 1024)
    for family in ("qwen2_vl", "qwen3_5"):
        yield _resized_case(family, (320, 240), 5, None)


def _resized_case(family: str, size: tuple[int, int], frames: int, bound: int | None) -> Case:
    geometry = IMAGES[family]
    grid = resized_grid(size, frames, geometry, bound or geometry.max_pixels)
    side = geometry.patch_size
    given = {"image": family, "size": size, "frames": frames, **({"max_pixels": bound} if bound else {})}
    return Case(
        f"{family} {size[0]}x{size[1]}, {frames}" + (f", at most {bound}" if bound else ""),
        given,
        {
            "size": [grid.w * side, grid.h * side],
            "grid": [grid.t, grid.h, grid.w],
            "image_tokens": image_tokens(grid, geometry),
        },
    )


def smart_sizes() -> Document:
    return Document(
        "`smart_resize`, the rule itself: sides in whole multiples of a factor, within pixel bounds.",
        {"height": "", "width": "", "factor": "", "min_pixels": "", "max_pixels": ""},
        {"height": "", "width": ""},
        (
            Case(
                " ".join(map(str, given)),
                dict(zip(("height", "width", "factor", "min_pixels", "max_pixels"), given, strict=True)),
                dict(zip(("height", "width"), smart_resize(*given), strict=True)),
            )
            for given in SIZES
        ),
    )


SIZES = (
    (90, 150, 28, 3136, 12845056),
    (42, 70, 28, 3136, 12845056),
    (14, 14, 28, 3136, 12845056),
    (98, 126, 28, 3136, 12845056),
    (1, 200, 28, 3136, 12845056),
    (1754, 1240, 28, 3136, 1003520),
    (1754, 1240, 32, 65536, 16777216),
    (3508, 2480, 28, 3136, 1003520),
    (100, 20000, 28, 3136, 100352),
    (48, 80, 32, 65536, 16777216),
    (16, 16, 32, 1024, 1024),
    (31, 33, 32, 1024, 1024),
    (600, 8, 32, 4096, 8192),
    (7, 7, 2, 4, 64),
    (5, 3, 2, 1, 100),
)
"""Height, width, factor and bounds; halves (42 / 28, 14 / 28, 98 / 28, 126 / 28, 5 / 2) are rounded to even."""


def bicubic() -> Document:
    return Document(
        "Bicubic resizing of RGB bytes in integers, with the weights and the order of passes of Pillow 13.",
        {"picture": PICTURE, "size": "[width, height] to resize to"},
        {
            "pixels": "rows of columns of [R, G, B]; of small results",
            "sha256": "of the bytes in the order rows, columns, channels",
        },
        _bicubic(),
        {"formulas": FORMULAS},
    )


def _bicubic() -> Iterator[Case]:
    sizes = (
        *(("checks", 13, 9, 8, 6), ("checks", 8, 6, 13, 9), ("waves", 10, 7, 10, 4), ("waves", 10, 7, 5, 7)),
        *(("noise", 9, 30, 7, 12), ("noise", 9, 30, 7, 26), ("noise", 9, 13, 14, 12), ("waves", 90, 700, 84, 588)),
        *(("noise", 6, 6, 6, 6), ("noise", 1, 1, 4, 4), ("noise", 2, 40, 8, 6), ("noise", 7, 5, 1, 1)),
        *(("waves", 150, 90, 140, 84), ("checks", 640, 480, 644, 476), ("noise", 300, 200, 28, 112)),
        *(("noise", 64, 64, 1024, 992), ("page", 1240, 1754, 840, 1204), ("scan", 400, 300, 416, 288)),
    )
    for formula, width, height, *size in sizes:
        resized = np.asarray(
            Image.fromarray(pixels(formula, width, height)).resize((size[0], size[1]), Image.Resampling.BICUBIC)
        )
        small = {"pixels": resized} if resized.size <= 400 else {}
        yield Case(
            f"{formula} {width}x{height} to {size[0]}x{size[1]}",
            {"picture": picture(formula, width, height), "size": size},
            {**small, "sha256": sha256(resized)},
        )


def patches() -> Document:
    return Document(
        "From RGB frames to `pixel_values`: resized, normalized, cut into patches in merge order.",
        {
            "image": "the part of the geometry that counts",
            "pictures": f"the frames, one after another: each {PICTURE}",
            "grid": "[t, h, w] that the frames are resized to; given, so that the resize rule is not needed",
        },
        {
            "shape": "of `pixel_values`: [t, h · w, C · T · P · P]",
            "pixel_values": "flattened float32; of small results",
            "sha256": "of the float32 numbers, little-endian",
        },
        _patches(),
        {"formulas": FORMULAS},
    )


def _geometry(patch: int, temporal: int, merge: int, normalization: dict[str, Any]) -> ImageGeometry:
    return ImageGeometry(
        patch_size=patch,
        temporal_patch_size=temporal,
        spatial_merge_size=merge,
        min_pixels=1,
        max_pixels=1 << 24,
        **normalization,
    )


def tiny_geometry() -> ImageGeometry:
    """Patches of 2 × 2 pixels, 2 × 2 of which are a token."""
    return _geometry(2, 2, 2, CLIP)


def _patches() -> Iterator[Case]:
    tiny, pair, third = tiny_geometry(), _geometry(1, 2, 2, HALVES), _geometry(2, 1, 1, CLIP)
    yield _patches_case("one image", tiny, [picture("waves", 8, 4)], Grid(1, 2, 4))
    yield _patches_case("three frames in two temporal patches", pair, _clip("waves", 4, 4, 3), Grid(2, 4, 4))
    yield _patches_case("merge 1, row-major", third, [picture("checks", 6, 4)], Grid(1, 2, 3))
    yield _patches_case("resized", tiny, [picture("noise", 11, 6)], Grid(1, 2, 4))
    for family, grid in (
        ("qwen2_5_vl", Grid(1, 6, 10)),
        ("qwen3_vl", Grid(1, 14, 22)),
        ("qwen", Grid(1, 32, 32)),
    ):
        yield _patches_case(family, IMAGES[family], [picture("noise", 150, 90)], grid)
    yield _patches_case("a video of Qwen2.5-VL", IMAGES["qwen2_5_vl"], _clip("waves", 90, 60, 5), Grid(3, 4, 6))


def _clip(formula: str, width: int, height: int, count: int) -> list[dict[str, Any]]:
    return [picture(formula, width, height, index) for index in range(count)]


def _patches_case(name: str, geometry: ImageGeometry, pictures: list[dict[str, Any]], grid: Grid) -> Case:
    values = patchify([Image.fromarray(pixels(**each)) for each in pictures], geometry, grid).pixel_values
    small = {"pixel_values": values.ravel()} if values.size <= 400 else {}
    keys = ("patch_size", "temporal_patch_size", "spatial_merge_size", "image_mean", "image_std")
    image = {key: value for key, value in described(geometry).items() if key in keys}
    given = {"image": image, "pictures": pictures, "grid": [grid.t, grid.h, grid.w]}
    return Case(name, given, {"shape": values.shape, **small, "sha256": sha256(values)})


def pruned() -> Document:
    return Document(
        "The blocks of an image or video that are kept, and the vision graph's inputs for the kept ones of its frames.",
        {
            "pictures": f"frames of the resized size, T of each temporal patch one after another: each {PICTURE}",
            "frames": "T, frames per temporal patch; 1 for an image, whose frames are equal",
            "factor": "side of a block in pixels; a block is merge · merge patches, and merge is 2",
            "tolerance": "0 is the rule `exact`, 8 the rule `scan`",
            "least": "fewest blocks that are kept of a temporal patch",
            "window": "side of an attention window in blocks, of families that have windows",
        },
        {
            "kept": "per temporal patch, the kept blocks, numbered row by row",
            "patch_positions": "of the first temporal patch's kept patches, [row, column] each",
            "window_gather": "see windows.json; of the first temporal patch's kept patches",
            "window_lengths": "likewise",
            "window_scatter": "likewise",
        },
        _pruned(),
        {"formulas": FORMULAS},
    )


def _pruned() -> Iterator[Case]:
    yield _pruned_case("an exact page", "page", (96, 80), 1, 1, 8, 0.0, window=4)
    yield _pruned_case("a scan, exactly", "scan", (96, 80), 1, 1, 8, 0.0)
    yield _pruned_case("a scan, with tolerance", "scan", (96, 80), 1, 1, 8, 8.0, window=3)
    yield _pruned_case("blocks of 28 pixels", "scan", (280, 224), 1, 1, 28, 8.0, window=4)
    yield _pruned_case("blocks of 6 pixels, whose boxes have 3", "page", (96, 72), 1, 1, 6, 2.5)
    yield _pruned_case("a video", "page", (96, 72), 2, 2, 8, 0.0, window=4)
    yield _pruned_case("noise: all are kept", "noise", (32, 24), 1, 1, 8, 8.0)
    yield _pruned_case("a blank corner: the least", "page", (16, 24), 1, 1, 8, 0.0, least=5)


def _pruned_case(
    name: str,
    formula: str,
    size: tuple[int, int],
    temporal: int,
    frames: int,
    factor: int,
    tolerance: float,
    window: int = 0,
    least: int = 4,
) -> Case:
    pictures = _clip(formula, *size, temporal * frames)
    stacked = np.stack([pixels(**each) for each in pictures]).reshape(temporal, frames, size[1], size[0], 3)
    kept = Kept.of(kept_blocks(stacked, factor, tolerance, least))
    rows, columns = size[1] // factor, size[0] // factor
    cells = kept.frames if kept else tuple(tuple(range(rows * columns)) for _ in range(temporal))
    image = msgspec.structs.replace(_geometry(factor // 2, frames, 2, HALVES), window=window)
    feeds = only(vision_feeds(image, Grid(1, 2 * rows, 2 * columns)), np.array(cells[0]), image)
    feeds["patch_positions"] = feeds["patch_positions"][0]
    given = {"pictures": pictures, "frames": frames, "factor": factor, "tolerance": tolerance, "least": least}
    return Case(name, {**given, **({"window": window} if window else {})}, {"kept": cells, **feeds})


def video_frames() -> Document:
    return Document(
        "Which frames of a video are taken, and the pixel bounds of each.",
        {
            "total": "number of frames there are",
            "count": "number of frames to take, evenly spaced",
            "frames": "number of frames taken",
            "factor": "side of an image token in pixels",
            "max_length": "of the bundle, in tokens",
        },
        {"indices": "of the frames taken", "bounds": "[min_pixels, max_pixels] of a resized frame"},
        _video_frames(),
    )


def _video_frames() -> Iterator[Case]:
    for total, count in ((10, 4), (7, 7), (1, 1), (100, 9), (1000, 768), (6, 5), (31, 2)):
        yield Case(f"{count} of {total}", {"total": total, "count": count}, {"indices": evenly_spaced(total, count)})
    for frames, factor, length in ((4, 28, 4096), (5, 28, 32768), (64, 32, 8192), (768, 32, 262144), (2, 28, 512)):
        bounds = PixelBudget().frame_bounds(frames, factor, length)
        given = {"frames": frames, "factor": factor, "max_length": length}
        yield Case(f"{frames} frames of {length} tokens", given, {"bounds": bounds})
