"""Optimization profiles hold every page within the pixel bounds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qvl_export import ExportPlan, export
from qvl_export.engines.profiles import most_windows, profiles
from qvl_runtime.bundle import read_manifest
from qvl_runtime.positions import Grid, window_layout
from qvl_runtime.preprocess import resized_grid

Checkpoints = Callable[[str, str], Path]


@pytest.mark.parametrize("tokens", [1, 7, 64, 333])
def test_no_image_has_more_windows_than_its_profile(tokens: int) -> None:
    """Every shape of this number of tokens that resizing can produce, counted by the layout itself."""
    most = 0
    for rows in range(1, tokens + 1):
        for columns in range(1, min(tokens // rows, 400) + 1):
            most = max(most, len(window_layout(Grid(1, 2 * rows, 2 * columns), 2, 4).lengths))
    assert most == most_windows(tokens, 4)


def test_profiles_hold_every_page_within_the_pixel_bounds(checkpoint: Checkpoints, tmp_path: Path) -> None:
    export(ExportPlan(checkpoint("qwen2_5_vl", "small"), tmp_path / "out", max_pixels=300_000, max_length=2048))
    manifest = read_manifest(tmp_path / "out")
    page = profiles("vision", manifest, "pages")[0]
    rng = np.random.default_rng(0)
    for width, height in rng.integers(10, 2000, (300, 2)).tolist():
        grid = resized_grid((width, height), 1, manifest.image, manifest.image.max_pixels)
        windows = window_layout(grid, 2, manifest.image.window)
        sizes = {"patches": grid.h * grid.w, "windows": len(windows.lengths), "window_slots": len(windows.gather)}
        assert all(size in page.axes[axis] for axis, size in sizes.items()), (width, height)
