"""What images become: the preprocessor's configuration, and a vision tower's own."""

from __future__ import annotations

from typing import Annotated

import msgspec

from qvl_runtime.manifest import ImageGeometry

from ...checkpoint import Checkpoint
from ...errors import ConfigError
from . import Finite, Positive, PositiveFloat, T, convert, refuse_unless

BICUBIC = 3
Pixels = Annotated[int, msgspec.Meta(gt=0, le=1 << 40)]


class _Size(msgspec.Struct):
    shortest_edge: Pixels | None = None
    longest_edge: Pixels | None = None
    min_pixels: Pixels | None = None
    max_pixels: Pixels | None = None


class _Preprocessor(msgspec.Struct):
    image_mean: Annotated[list[Finite], msgspec.Meta(min_length=3, max_length=3)]
    image_std: Annotated[list[PositiveFloat], msgspec.Meta(min_length=3, max_length=3)]
    patch_size: Positive
    temporal_patch_size: Positive
    merge_size: Positive
    size: _Size = msgspec.field(default_factory=_Size)
    min_pixels: Pixels | None = None
    max_pixels: Pixels | None = None
    resample: int = BICUBIC
    rescale_factor: Finite = 1 / 255
    do_resize: bool = True
    do_rescale: bool = True
    do_normalize: bool = True


def read_vision(checkpoint: Checkpoint, kind: type[T]) -> T:
    """The `vision_config` of `config.json`, as a family has it."""
    where = checkpoint.directory / "config.json"
    return convert(checkpoint.config.get("vision_config", {}), kind, where, "vision_config")


def read_image(checkpoint: Checkpoint, window: int = 0, position_table: int = 0) -> ImageGeometry:
    """Image geometry from `preprocessor_config.json`, or from `processor_config.json` as transformers 5 nests it.

    `window` and `position_table` are the tower's own, see `ImageGeometry`.
    """
    raw, where = checkpoint.json("preprocessor_config.json"), checkpoint.directory / "preprocessor_config.json"
    if raw is None:
        nested = checkpoint.json("processor_config.json") or {}
        raw, where = nested.get("image_processor"), checkpoint.directory / "processor_config.json"
    if raw is None:
        raise ConfigError(
            "has neither preprocessor_config.json nor an image_processor in processor_config.json",
            where=checkpoint.directory,
            fix="copy it from the base model",
        )
    read = convert(raw, _Preprocessor, where)
    if read.resample != BICUBIC or abs(read.rescale_factor * 255 - 1) > 1e-6:
        raise ConfigError("resample and rescale_factor must be bicubic (3) and 1/255", where=where)
    if not (read.do_resize and read.do_rescale and read.do_normalize):
        raise ConfigError("do_resize, do_rescale and do_normalize must be true", where=where)
    low = read.min_pixels or read.size.shortest_edge or read.size.min_pixels
    high = read.max_pixels or read.size.longest_edge or read.size.max_pixels
    if low is None or high is None or low > high:
        raise ConfigError(f"min_pixels {low} and max_pixels {high} are not bounds", where=where)
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


def check_vision(
    image: ImageGeometry, patch: tuple[int, int, int], width: int, heads: int, checkpoint: Checkpoint
) -> None:
    """Refuse a tower whose patches (side, frames, merge) differ from the preprocessor, or whose heads do not fit."""
    theirs = (image.patch_size, image.temporal_patch_size, image.spatial_merge_size)
    refuse_unless(patch == theirs, f"vision patches {patch} are not the preprocessor's {theirs}", checkpoint)
    refuse_unless(
        width % (heads * 4) == 0, f"{heads} vision heads do not divide {width} into multiples of 4", checkpoint
    )
