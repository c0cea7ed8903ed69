"""Inputs of the graphs beside pixels and cache, for models with and without windows, tables and DeepStack."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from qvl_runtime.bundle import read_manifest
from qvl_runtime.manifest import ImageGeometry
from qvl_runtime.positions import Grid, interpolation, patch_positions, window_layout
from qvl_runtime.sessions.engine import LlmInputs
from qvl_runtime.sessions.feeds import llm_feeds, vision_feeds

MANIFEST = read_manifest(Path(__file__).parents[1] / "checkpoints" / "bundles" / "v2")
GRID = Grid(2, 4, 6)
INPUTS = LlmInputs(
    ids=np.array([7, 8, 9]),
    positions=np.arange(9).reshape(3, 3),
    features=np.arange(24, dtype=np.float32).reshape(3, 2, 4),
    feature_indices=np.array([0, 2]),
    wanted=np.array([2]),
    past=5,
)


def geometry(**changes: int) -> ImageGeometry:
    plain = msgspec.structs.replace(MANIFEST.image, window=0, position_table=0, queries=0)
    return msgspec.structs.replace(plain, **changes)


def test_every_frame_has_the_positions_of_its_patches() -> None:
    feeds = vision_feeds(geometry(), GRID)
    assert list(feeds) == ["patch_positions"] and feeds["patch_positions"].shape == (2, 24, 2)
    assert all(np.array_equal(frame, patch_positions(GRID, 2)) for frame in feeds["patch_positions"].reshape(2, 24, 2))


def test_windows_and_tables_add_their_inputs() -> None:
    feeds = vision_feeds(geometry(window=2, position_table=8), GRID)
    windows, (indices, weights) = window_layout(GRID, 2, 2), interpolation(GRID, 2, 8)
    assert feeds["window_lengths"].tolist() == 2 * windows.lengths.tolist()
    assert np.array_equal(feeds["window_gather"], windows.gather)
    assert np.array_equal(feeds["interpolation_indices"], indices)
    assert np.array_equal(feeds["interpolation_weights"], weights)
    assert vision_feeds(geometry(queries=16), GRID) == {}


@pytest.mark.parametrize("target", ["cpu", "portable"])
def test_inputs_of_the_language_model(target: str) -> None:
    feeds = llm_feeds(msgspec.structs.replace(MANIFEST, target=target), INPUTS, 16)
    assert feeds["input_ids"].tolist() == [[7, 8, 9]] and feeds["position_ids"].shape == (3, 1, 3)
    assert feeds["image_positions"].tolist() == [[0, 0], [0, 2]]
    for index, name in enumerate(("image_features", "deepstack_features.0", "deepstack_features.1")):
        assert np.array_equal(feeds[name], INPUTS.features[index])
    assert "ntk_alpha" not in feeds
    if target == "portable":
        assert feeds["write_indices"].tolist() == [5] and feeds["attention_mask"].shape == (1, 1, 3, 16)
        assert feeds["attention_mask"][0, 0].sum(axis=1).tolist() == [6, 7, 8]


def test_models_with_dynamic_ntk_get_its_factor() -> None:
    llm = msgspec.structs.replace(MANIFEST.llm, ntk_length=2048)
    feeds = llm_feeds(msgspec.structs.replace(MANIFEST, llm=llm), replace(INPUTS, ntk_alpha=3.0), 16)
    assert feeds["ntk_alpha"].tolist() == [3.0] and feeds["ntk_alpha"].dtype == np.float32
