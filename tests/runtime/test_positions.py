"""Host indices equal those of transformers, exactly."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen2_5_VLConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel
from transformers.vision_utils import (
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
    get_vision_window_index,
)

from qvl_runtime.positions import Grid, VisionSpan, interpolation, mrope_positions, patch_positions, window_layout

MERGE, WINDOW, TOKENS_PER_SECOND = 2, 4, 2
cells = st.integers(1, 25)
grids = st.builds(lambda t, h, w: Grid(t, h * MERGE, w * MERGE), st.integers(1, 3), cells, cells)


@given(grids)
def test_patch_positions(grid: Grid) -> None:
    theirs = get_vision_position_ids(torch.tensor([[1, grid.h, grid.w]]), MERGE)
    assert np.array_equal(patch_positions(grid, MERGE), theirs.numpy())


@given(
    st.builds(Grid, st.just(1), st.integers(1, 200).map(lambda n: 2 * n), cells.map(lambda n: 2 * n)),
    st.integers(2, 64),
)
def test_interpolation(grid: Grid, side: int) -> None:
    theirs = get_vision_interpolation_indices_and_weights(
        torch.tensor([[1, grid.h, grid.w]]), side, align_corners=True, spatial_merge_size=MERGE
    )
    for ours, reference in zip(interpolation(grid, MERGE, side), theirs, strict=True):
        assert np.array_equal(ours.T, reference.numpy())
        assert ours.dtype == reference.numpy().dtype


@given(grids)
def test_windows_hold_the_patches_of_the_reference_in_its_order(grid: Grid) -> None:
    index, boundaries = get_vision_window_index(torch.tensor([[1, grid.h, grid.w]]), MERGE, 112, 14)
    theirs = (index[:, None] * MERGE**2 + torch.arange(MERGE**2)).flatten().numpy()
    ours = window_layout(grid, MERGE, WINDOW)
    assert np.array_equal(ours.lengths, np.diff(boundaries.numpy()))
    rows = ours.gather.reshape(len(ours.lengths), -1)
    real = [row[:length] for row, length in zip(rows, ours.lengths, strict=True)]
    assert np.array_equal(np.concatenate(real), theirs)


@given(grids)
def test_scatter_undoes_gather(grid: Grid) -> None:
    windows = window_layout(grid, MERGE, WINDOW)
    patches = np.arange(grid.h * grid.w)
    assert np.array_equal(patches[windows.gather][windows.scatter], patches)


segments = st.lists(
    st.one_of(
        st.integers(1, 9),
        st.tuples(st.sampled_from(["image", "video"]), st.integers(1, 4), cells, cells, st.floats(0.05, 8)),
    ),
    min_size=1,
    max_size=6,
)


@settings(deadline=None)
@given(segments)
def test_mrope_positions(parts: list) -> None:
    """Text and media in any order; media are kept apart by a text token, as vision_start and vision_end do."""
    types: list[int] = []
    spans, images, videos, seconds = [], [], [], []
    for part in parts:
        if isinstance(part, int):
            types += [0] * part
            continue
        kind, t, h, w, clock = part
        t = 1 if kind == "image" else t
        types.append(0)
        clock = float(np.float32(clock))
        interval = TOKENS_PER_SECOND * clock if kind == "video" else 1.0
        spans.append(VisionSpan(len(types), t, h, w, interval))
        types += [1 if kind == "image" else 2] * (t * h * w) + [0]
        (images if kind == "image" else videos).append([t, h * MERGE, w * MERGE])
        if kind == "video":
            seconds.append(clock)
    theirs, delta = _reference(types, images, videos, seconds)
    ours = mrope_positions(len(types), spans)
    assert np.array_equal(ours, theirs)
    assert ours.max() + 1 - len(types) == delta


def _reference(types: list[int], images: list, videos: list, seconds: list) -> tuple[np.ndarray, int]:
    config = Qwen2_5_VLConfig(vision_config={"tokens_per_second": TOKENS_PER_SECOND})
    shell = Qwen2_5_VLModel.__new__(Qwen2_5_VLModel)
    torch.nn.Module.__init__(shell)
    shell.config = config
    ids = torch.zeros((1, len(types)), dtype=torch.long)
    positions, delta = shell.get_rope_index(
        ids,
        torch.tensor([types]),
        torch.tensor(images) if images else None,
        torch.tensor(videos) if videos else None,
        torch.tensor(seconds) if seconds else None,
    )
    return positions[:, 0].numpy(), int(delta)
