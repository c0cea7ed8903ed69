"""Which blocks are left out: against a naive reading of the rule, cell by cell, and in cases told apart by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qvl_runtime.prune.blocks import LEAST, box_means, corners_of, kept_blocks, labels, predicted

SIDE = 8
"""Pixels of a block's side in these tests."""
INK = 40


def page(cells: list[str], ink: int = INK) -> np.ndarray:
    """An image [1, 1, H, W, 3] of white blocks; other characters than a dot are blocks with ink of their own."""
    blocks = np.full((len(cells), len(cells[0]), SIDE, SIDE, 3), 255, np.uint8)
    for place in np.ndindex(blocks.shape[:2]):
        character = cells[place[0]][place[1]]
        if character != ".":
            blocks[(*place, ord(character) % SIDE)] = ink
    return blocks.transpose(0, 2, 1, 3, 4).reshape(1, 1, len(cells) * SIDE, -1, 3)


def clip(*frames: list[str]) -> np.ndarray:
    """Pages as the temporal patches of a video."""
    return np.concatenate([page(frame) for frame in frames])


def shown(kept: np.ndarray) -> list[str]:
    """The first temporal patch: # is kept."""
    return ["".join("#" if cell else "." for cell in row) for row in kept[0]]


def naive(signatures: np.ndarray, tolerance: float) -> np.ndarray:
    """The rule as it is written down, block by block, in reading order."""
    holds = np.zeros(signatures.shape[:3], bool)
    seen = signatures.copy()

    def near(one: np.ndarray, other: np.ndarray) -> bool:
        return bool(np.abs(one - other).max() <= tolerance)

    for t, r, c in np.ndindex(holds.shape):
        own, guess = seen[t, r, c].copy(), None
        if r == 0 and c > 0:
            guess = seen[t, r, c - 1]
        elif c == 0 and r > 0:
            guess = seen[t, r - 1, c]
        elif r > 0:
            left, above, corner = seen[t, r, c - 1], seen[t, r - 1, c], seen[t, r - 1, c - 1]
            guess = above if near(corner, left) and not near(corner, above) else left
        if t > 0 and near(own, seen[t - 1, r, c]):
            guess = seen[t - 1, r, c]
        if guess is not None and near(own, guess):
            holds[t, r, c], seen[t, r, c] = True, guess
    return holds


shapes = st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7))


@given(shapes, st.integers(1, 4), st.sampled_from([0.0, 1.0, 2.5]), st.integers(0, 1 << 30))
def test_as_the_rule_is_written(shape: tuple[int, int, int], values: int, tolerance: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    signatures = rng.integers(0, values, (*shape, 2)).astype(np.float32)
    assert np.array_equal(predicted(signatures, tolerance), naive(signatures, tolerance))


def test_corner_by_its_definition() -> None:
    """Two sides that meet touch what is kept, or the edge of the image."""
    rng = np.random.default_rng(0)
    left_out = rng.random((4, 9, 7)) < 0.6
    for t, r, c in np.ndindex(left_out.shape):
        around = [
            0 <= y < 9 and 0 <= x < 7 and bool(left_out[t, y, x])
            for y, x in ((r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1))
        ]
        corner = left_out[t, r, c] and not all(around[:2]) and not all(around[2:])
        assert corners_of(left_out)[t, r, c] == corner


def test_the_edge_of_print_is_kept() -> None:
    """LOCO-I keeps the block after print and the corner below it, so that its end can be seen."""
    cells = ["......", "..ab..", "..cd..", "......", "......"]
    assert shown(kept_blocks(page(cells), SIDE, 0, least=1, corners=False)) == [
        "#.....",
        "..###.",
        "..###.",
        "..#...",
        "......",
    ]


def test_corners_are_kept() -> None:
    cells = ["......", "..ab..", "..cd..", "......", "......"]
    without = kept_blocks(page(cells), SIDE, 0, least=1, corners=False)
    with_them = kept_blocks(page(cells), SIDE, 0, least=1)
    assert np.array_equal(with_them, without | corners_of(~without))
    assert with_them.sum() > without.sum()


def test_exact_means_every_pixel() -> None:
    pixels = page(["....", "....", "...."])
    pixels[0, 0, SIDE + 3, 2 * SIDE + 3] = 254
    assert kept_blocks(pixels, SIDE, 0, corners=False, least=1)[0, 1, 2]
    assert not kept_blocks(pixels, SIDE, 1, corners=False, least=1)[0, 1, 2]


def test_tolerance_is_of_box_means() -> None:
    """A dot of ink counts by its share of 4 × 4 pixels: 160 of 255 in one pixel are 10 in the mean."""
    pixels = page(["....", "....", "...."])
    pixels[0, 0, SIDE + 3, 2 * SIDE + 3] = 255 - 160
    assert kept_blocks(pixels, SIDE, 9.9, corners=False, least=1)[0, 1, 2]
    assert not kept_blocks(pixels, SIDE, 10, corners=False, least=1)[0, 1, 2]


def test_faint_lines_are_paper_to_a_tolerance() -> None:
    """As docs/pruning.md says: a pixel's line that is 30 darker is 7.5 in the mean; one that is 33 darker is 8.25."""
    for darker, lost in ((30, True), (33, False)):
        pixels = page(["....", "....", "...."])
        pixels[0, 0, SIDE + 3, SIDE : 2 * SIDE] -= np.uint8(darker)
        for tolerance in (0, 8):
            kept = kept_blocks(pixels, SIDE, tolerance, corners=False, least=1)
            assert kept[0, 1, 1] == (not lost or tolerance == 0)


def test_small_differences_do_not_add_up() -> None:
    """A gradient of 4 a block: every third block is kept when 8 are allowed, since the first is the measure."""
    steps = np.repeat(np.arange(12, dtype=np.uint8) * 4, SIDE)
    pixels = np.broadcast_to(steps[None, None, None, :, None], (1, 1, SIDE, 12 * SIDE, 3))
    assert shown(kept_blocks(pixels, SIDE, 8, corners=False, least=1)) == ["#..#..#..#.."]


@pytest.mark.parametrize("tolerance", [0, 8])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 3), (2, 2), (5, 9), (40, 30)])
def test_blank_pages_keep_a_few_blocks(rows: int, columns: int, tolerance: float) -> None:
    kept = kept_blocks(page(["." * columns] * rows), SIDE, tolerance)
    assert min(LEAST, rows * columns) <= kept.sum() <= 6  # the four corners, and those around the first block
    assert kept[0, 0, 0]


@pytest.mark.parametrize("least", [1, 4, 7, 30, 1000])
def test_as_many_as_an_engine_needs(least: int) -> None:
    kept = kept_blocks(clip(["......"] * 5, ["......"] * 5), SIDE, 0, least, corners=False)
    assert (kept.sum((1, 2)) == min(least, 30)).all()


def test_what_stands_still_is_left_out() -> None:
    """Of the second temporal patch only what moved; of the third, in which nothing did, a few."""
    first, second = ["a..b", "....", "c..d"], ["a..b", ".e..", "c..d"]
    kept = kept_blocks(clip(first, second, second), SIDE, 0, least=1, corners=False)
    assert kept[1].sum() == 1
    assert kept[1, 1, 1]
    assert kept[2].sum() == 1


def test_all_frames_of_a_temporal_patch_count() -> None:
    pixels = np.concatenate((page(["....", "...."]), page(["....", "..a."])), axis=1)
    assert kept_blocks(pixels, SIDE, 0, least=1, corners=False)[0, 1, 2]


@given(st.integers(0, 1 << 30))
def test_labels_are_equal_for_equal_blocks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pixels = np.kron(rng.integers(0, 2, (1, 2, 3, 4, 1)), np.ones((1, 1, SIDE, SIDE, 3))).astype(np.uint8)
    cells = pixels[0, :, ::SIDE, ::SIDE, 0].transpose(1, 2, 0).reshape(12, 2)
    numbers = labels(pixels, SIDE).ravel()
    for one, other in np.ndindex(12, 12):
        assert (numbers[one] == numbers[other]) == (cells[one] == cells[other]).all()


@pytest.mark.parametrize("factor", [8, 28, 32, 6, 7])
def test_box_means(factor: int) -> None:
    rng = np.random.default_rng(factor)
    pixels = rng.integers(0, 256, (2, 2, 2 * factor, 3 * factor, 3), dtype=np.uint8)
    means, side = box_means(pixels, factor), {8: 4, 28: 4, 32: 4, 6: 3, 7: 1}[factor]
    count = factor // side
    assert means.shape == (2, 2, 3, 2 * count * count * 3)
    block = pixels[1, :, factor:, 2 * factor :].astype(np.float64)
    expected = [
        block[t, y * side : (y + 1) * side, x * side : (x + 1) * side, c].mean()
        for t, y, x, c in np.ndindex(2, count, count, 3)
    ]
    assert np.allclose(means[1, 1, 2], expected, atol=1e-3)
