"""Reads the preprocessor's configuration and the vision tower's configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import field

from qvl_runtime.manifest import ImageGeometry

from ...checkpoint.directory import Checkpoint
from ...errors import ConfigError
from . import Positive, T, convert, refuse_unless

BICUBIC = 3
Pixels = Annotated[int, msgspec.Meta(gt=0, le=1 << 40)]


Mean = Annotated[float, msgspec.Meta(ge=-256, le=256)]
Deviation = Annotated[float, msgspec.Meta(ge=1e-3, le=256)]
"""Pixels are 0 to 1; beyond these bounds (pixel − mean) / std would not fit in float32 or float16."""
CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
DEFAULT_PIXELS = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280}


class _Size(msgspec.Struct):
    shortest_edge: Pixels | None = None
    longest_edge: Pixels | None = None
    min_pixels: Pixels | None = None
    max_pixels: Pixels | None = None


class _Preprocessor(msgspec.Struct):
    """The defaults are those of transformers' `Qwen2VLImageProcessor`, which all families except the first use."""

    image_mean: Annotated[list[Mean], msgspec.Meta(min_length=3, max_length=3)] = field(default_factory=CLIP_MEAN.copy)
    image_std: Annotated[list[Deviation], msgspec.Meta(min_length=3, max_length=3)] = field(
        default_factory=CLIP_STD.copy
    )
    patch_size: Positive = 14
    temporal_patch_size: Positive = 2
    merge_size: Positive = 2
    size: _Size = field(default_factory=lambda: _Size(**DEFAULT_PIXELS))
    min_pixels: Pixels | None = None
    max_pixels: Pixels | None = None
    resample: int = BICUBIC
    rescale_factor: float = 1 / 255
    do_resize: bool = True
    do_rescale: bool = True
    do_normalize: bool = True


def read_vision(checkpoint: Checkpoint, kind: type[T]) -> T:
    """Reads the `vision_config` of `config.json` as the family's struct `kind`."""
    where = checkpoint.directory / "config.json"
    return convert(checkpoint.config.get("vision_config", {}), kind, where, "vision_config")


def read_image(checkpoint: Checkpoint, window: int = 0, position_table: int = 0) -> ImageGeometry:
    """Reads the image geometry, nested in `processor_config.json` (transformers 5) or in `preprocessor_config.json`.

    `window` and `position_table` come from the tower, see `ImageGeometry`.
    """
    nested = checkpoint.json("processor_config.json") or {}
    raw, where = nested.get("image_processor"), checkpoint.directory / "processor_config.json"
    if raw is None:
        raw, where = checkpoint.json("preprocessor_config.json"), checkpoint.directory / "preprocessor_config.json"
    if raw is None:
        raise ConfigError(
            "has neither preprocessor_config.json nor an image_processor in processor_config.json",
            where=checkpoint.directory,
            fix="copy it from the base model",
        )
    read = convert(_normalized(raw), _Preprocessor, where)
    if read.resample != BICUBIC or not abs(read.rescale_factor * 255 - 1) <= 1e-6:
        raise ConfigError("resample and rescale_factor must be bicubic (3) and 1/255", where=where)
    if not (read.do_resize and read.do_rescale and read.do_normalize):
        raise ConfigError("do_resize, do_rescale and do_normalize must be true", where=where)
    low, high = _pixel_bounds(read, where)
    return ImageGeometry(
        patch_size=read.patch_size,
        temporal_patch_size=read.temporal_patch_size,
        spatial_merge_size=read.merge_size,
        min_pixels=low,
        max_pixels=high,
        image_mean=read.image_mean,
        image_std=list(read.image_std),
        window=window,
        position_table=position_table,
    )


def _pixel_bounds(read: _Preprocessor, where: Path) -> tuple[int, int]:
    """The smallest and largest number of pixels; raises ConfigError if one is missing or they are reversed."""
    low = read.min_pixels or read.size.shortest_edge or read.size.min_pixels
    high = read.max_pixels or read.size.longest_edge or read.size.max_pixels
    if low is None or high is None:
        raise ConfigError("min_pixels or max_pixels is missing", where=where)
    if low > high:
        raise ConfigError(f"min_pixels {low} is above max_pixels {high}", where=where)
    return low, high


def _normalized(raw: Any) -> Any:
    """Normalizes a preprocessor's configuration: removes null values and turns 14.0 into 14."""
    if not isinstance(raw, dict):
        return raw
    kept = {key: _normalized(value) if key == "size" else value for key, value in raw.items() if value is not None}
    return {key: int(value) if _is_whole(value) else value for key, value in kept.items()}


def _is_whole(value: Any) -> bool:
    return isinstance(value, float) and value.is_integer()


def check_vision(
    image: ImageGeometry, patch: tuple[int, int, int], width: int, heads: int, checkpoint: Checkpoint
) -> None:
    """Raises ConfigError if patches (side, frames, merge) differ from the preprocessor's, or if heads do not fit."""
    preprocessor = (image.patch_size, image.temporal_patch_size, image.spatial_merge_size)
    refuse_unless(
        patch == preprocessor,
        f"vision patches {patch} are not the preprocessor's {preprocessor}",
        checkpoint,
        "set patch_size, temporal_patch_size and merge_size in preprocessor_config.json",
    )
    refuse_unless(
        width % (heads * 4) == 0, f"{heads} vision heads do not divide {width} into multiples of 4", checkpoint
    )
