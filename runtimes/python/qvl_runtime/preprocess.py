"""Converts pixels to patches, bit-identical to transformers' `Qwen2VLImageProcessorPil`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from .common.arrays import Floats
from .manifest import ImageGeometry
from .media.images import Frame
from .positions import Grid
from .resize import smart_resize

Pixels = npt.NDArray[np.uint8]
"""[frames, H, W, C], resized to a grid."""


@dataclass(frozen=True)
class Patches:
    """`pixel_values` [frames, patches, channels · temporal_patch_size · patch_size²], normalized."""

    pixel_values: Floats
    grid: Grid


def resized_grid(
    size: tuple[int, int], frames: int, geometry: ImageGeometry, max_pixels: int, min_pixels: int | None = None
) -> Grid:
    """Returns the patch grid of `frames` images of `size` (width, height) after resizing.

    A `min_pixels` of None means the geometry's own. Models with one fixed square size ignore the bounds.
    """
    if geometry.square:
        side = geometry.square // geometry.patch_size
        return Grid(-(-frames // geometry.temporal_patch_size), side, side)
    low = min(min_pixels or geometry.min_pixels, max_pixels)
    height, width = smart_resize(size[1], size[0], geometry.factor, low, max_pixels)
    return Grid(-(-frames // geometry.temporal_patch_size), height // geometry.patch_size, width // geometry.patch_size)


def image_tokens(grid: Grid, geometry: ImageGeometry) -> int:
    """Returns the number of image tokens of a grid."""
    return grid.t * geometry.queries or grid.tokens(geometry.spatial_merge_size)


def patchify(frames: Sequence[Frame], geometry: ImageGeometry, grid: Grid | None = None) -> Patches:
    """Resizes RGB `frames` of one size (bicubic), normalizes them, and cuts them into patches in merge order.

    A single image is one frame; the last frame is repeated to fill a temporal patch. The default `grid` follows from
    the geometry's pixel bounds.
    """
    grid = grid or resized_grid(frames[0].size, len(frames), geometry, geometry.max_pixels)
    return patches_of_pixels(resized_frames(frames, geometry, grid), geometry, grid)


def patches_of_pixels(pixels: Pixels, geometry: ImageGeometry, grid: Grid) -> Patches:
    """Normalizes frames resized by `resized_frames`, and cuts them into patches in merge order."""
    return Patches(_cut(pixels, normalization_table(geometry), grid, geometry), grid)


def resized_frames(frames: Sequence[Frame], geometry: ImageGeometry, grid: Grid) -> Pixels:
    """Returns the pixels of frames resized to a grid (bicubic), [t · T, H, W, C]; the last is repeated to fill T."""
    side = (grid.w * geometry.patch_size, grid.h * geometry.patch_size)
    pixels = np.stack([np.asarray(frame.resize(side, Image.Resampling.BICUBIC)) for frame in frames])
    missing = grid.t * geometry.temporal_patch_size - len(frames)
    return np.concatenate((pixels, np.repeat(pixels[-1:], missing, axis=0))) if missing else pixels


def normalization_table(geometry: ImageGeometry) -> Floats:
    """Returns the value of each byte in each channel, [3, 256]: rescaled in float64, normalized in float32."""
    scaled = (np.arange(256, dtype=np.float64) * (1 / 255)).astype(np.float32)
    mean, std = (np.array(v, dtype=np.float32)[:, None] for v in (geometry.image_mean, geometry.image_std))
    return np.asarray((scaled[None] - mean) / std)


def _cut(pixels: Pixels, table: Floats, grid: Grid, geometry: ImageGeometry) -> Floats:
    """[frames, H, W, C] bytes → [t, h · w, C · T · P · P] floats; the table is applied channel by channel."""
    m, p, t = geometry.spatial_merge_size, geometry.patch_size, geometry.temporal_patch_size
    split = pixels.reshape(grid.t, t, grid.h // m, m, p, grid.w // m, m, p, pixels.shape[-1])
    ordered = split.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7)  # t, h/m, w/m, m, m, C, T, P, P
    out = np.empty(ordered.shape, dtype=np.float32)
    for channel in range(pixels.shape[-1]):
        out[:, :, :, :, :, channel] = table[channel][ordered[:, :, :, :, :, channel]]
    return out.reshape(grid.t, grid.h * grid.w, -1)
