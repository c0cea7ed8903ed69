"""Preprocessing equals transformers' PIL processor to the bit."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from qvl_runtime.manifest import ImageGeometry
from qvl_runtime.preprocess import patchify

GEOMETRY = ImageGeometry(
    patch_size=14,
    temporal_patch_size=2,
    spatial_merge_size=2,
    min_pixels=3136,
    max_pixels=200704,
    image_mean=[0.48145466, 0.4578275, 0.40821073],
    image_std=[0.26862954, 0.26130258, 0.27577711],
)
QWEN3 = ImageGeometry(
    patch_size=16,
    temporal_patch_size=2,
    spatial_merge_size=2,
    min_pixels=65536,
    max_pixels=16777216,
    image_mean=[0.5] * 3,
    image_std=[0.5] * 3,
)


@settings(deadline=None, max_examples=40)
@given(st.integers(8, 700), st.integers(8, 700), st.integers(0, 2**32 - 1), st.sampled_from([GEOMETRY, QWEN3]))
def test_patches(width: int, height: int, seed: int, geometry: ImageGeometry) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    processor = Qwen2VLImageProcessorPil(
        patch_size=geometry.patch_size,
        min_pixels=geometry.min_pixels,
        max_pixels=geometry.max_pixels,
        image_mean=geometry.image_mean,
        image_std=geometry.image_std,
    )
    theirs = processor(images=[Image.fromarray(pixels)], return_tensors="np")
    ours = patchify([Image.fromarray(pixels)], geometry)
    assert [ours.grid.t, ours.grid.h, ours.grid.w] == theirs["image_grid_thw"][0].tolist()
    assert np.array_equal(ours.pixel_values[0], theirs["pixel_values"])


def test_odd_video_repeats_its_last_frame() -> None:
    frames = [Image.fromarray(np.full((56, 56, 3), value, np.uint8)) for value in (0, 90, 180)]
    patches = patchify(frames, GEOMETRY)
    assert patches.grid.t == 2
    by_frame = patches.pixel_values.reshape(2, 16, 3, 2, 14, 14)
    assert np.array_equal(by_frame[1, :, :, 0], by_frame[1, :, :, 1])
    assert not np.array_equal(by_frame[0, :, :, 0], by_frame[0, :, :, 1])
