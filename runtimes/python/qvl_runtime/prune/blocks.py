"""Chooses the blocks of an image or video that the vision tower needs to see.

A block is the square of pixels of one image token (`ImageGeometry.factor` pixels a side). Blocks are read row by row.
Each is predicted from its neighbours, and left out if the prediction holds; the others are kept. The predictor is
LOCO-I's choice between neighbours (JPEG-LS, ITU-T T.87) over blocks, as in PixelPrune (arXiv 2604.00886): where the
block above left equals the one at the left but not the one above, the block above predicts, otherwise the one at the
left. What is compared is the reconstruction of the neighbours, so that small differences do not add up along a row.
Blocks of a video are also left out if the same block of the temporal patch before predicts them.

Of every region that is left out the corners are kept, at the edge of the image too: they tell the model how far the
blank goes. Measured, they are worth more than they cost (docs/pruning.md).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
"""[t, T, H, W, C]: temporal patches of T frames, resized to whole blocks."""
Mask = npt.NDArray[np.bool_]
"""[t, rows, columns] of blocks."""
Signatures = npt.NDArray[Any]
"""[t, rows, columns, numbers]: what is compared of each block."""
BOX = 4
"""Side in pixels of the boxes whose means are compared by a tolerance."""
LEAST = 4
"""Fewest blocks that are kept of a temporal patch (of a smaller one: all)."""


def kept_blocks(pixels: Pixels, factor: int, tolerance: float, least: int = LEAST, corners: bool = True) -> Mask:
    """Returns which blocks of `factor` pixels a side are kept, at least `least` of every temporal patch.

    A tolerance of 0 leaves out only blocks that equal their prediction in every pixel, a larger one those in which no
    box of 4 × 4 pixels differs from it by more than that in the mean of a channel (of 255). `corners=False` is the rule
    of the paper, for comparisons.
    """
    signatures = box_means(pixels, factor) if tolerance else labels(pixels, factor)
    kept = ~predicted(signatures, tolerance)
    if corners:
        kept |= corners_of(~kept)
    for frame in kept:
        _keep_at_least(frame, least)
    return kept


def _blocks(pixels: Pixels, factor: int) -> npt.NDArray[np.uint8]:
    """[t, T, H, W, C] → [t, rows, columns, T, factor, factor, C], a view."""
    t, frames, height, width, channels = pixels.shape
    split = pixels.reshape(t, frames, height // factor, factor, width // factor, factor, channels)
    return np.asarray(split.transpose(0, 2, 4, 1, 3, 5, 6))


def labels(pixels: Pixels, factor: int) -> Signatures:
    """Returns a number for every block, [t, rows, columns, 1]: equal numbers mean equal pixels."""
    blocks, seen = _blocks(pixels, factor), dict[bytes, int]()
    t, rows, columns = blocks.shape[:3]
    numbers = [seen.setdefault(blocks[place].tobytes(), len(seen)) for place in np.ndindex(t, rows, columns)]
    return np.reshape(np.array(numbers, dtype=np.int64), (t, rows, columns, 1))


def box_means(pixels: Pixels, factor: int) -> Signatures:
    """Returns the means of every block's boxes, [t, rows, columns, T · boxes · C] float32.

    Boxes have `BOX` pixels a side, or the largest divisor of `factor` below that.
    """
    side = next(side for side in range(min(BOX, factor), 0, -1) if factor % side == 0)
    t, frames, height, width, channels = pixels.shape
    boxes = pixels.reshape(t, frames, height // side, side, width // side, side, channels)
    means = boxes.mean(axis=(3, 5), dtype=np.float32)
    count = factor // side
    split = means.reshape(t, frames, height // factor, count, width // factor, count, channels)
    return np.reshape(split.transpose(0, 2, 4, 1, 3, 5, 6), (t, height // factor, width // factor, -1))


def predicted(signatures: Signatures, tolerance: float) -> Mask:
    """Returns the blocks whose prediction holds, [t, rows, columns]; the first block of all has none.

    Blocks of one diagonal do not depend on each other and are computed together: rows + columns steps per frame.
    """
    holds = np.zeros(signatures.shape[:3], dtype=bool)
    before: Signatures | None = None
    for frame, found in zip(signatures, holds, strict=True):
        seen = frame.copy()  # the reconstruction: a block that is left out looks like its prediction
        for diagonal in range(sum(found.shape) - 1):
            _predict(seen, found, diagonal, tolerance, before)
        before = seen
    return holds


def _predict(seen: Signatures, holds: Mask, diagonal: int, tolerance: float, before: Signatures | None) -> None:
    """Predicts the blocks on one diagonal, and replaces those whose prediction holds by it; in place."""
    height, width = holds.shape
    rows = np.arange(max(0, diagonal - width + 1), min(diagonal, height - 1) + 1)
    columns = diagonal - rows
    own = seen[rows, columns]
    left, above = seen[rows, np.maximum(columns - 1, 0)], seen[np.maximum(rows - 1, 0), columns]
    corner = seen[np.maximum(rows - 1, 0), np.maximum(columns - 1, 0)]
    upward = _near(corner, left, tolerance) & ~_near(corner, above, tolerance)
    upward = np.where(columns == 0, True, upward & (rows > 0))
    guess = np.where(upward[:, None], above, left)
    good = _near(own, guess, tolerance) & (diagonal > 0)
    if before is not None:
        earlier = before[rows, columns]
        same = _near(own, earlier, tolerance)
        guess, good = np.where(same[:, None], earlier, guess), good | same
    seen[rows, columns] = np.where(good[:, None], guess, own)
    holds[rows, columns] = good


def _near(a: Signatures, b: Signatures, tolerance: float) -> npt.NDArray[np.bool_]:
    """Whether no number of two signatures [n, numbers] differs by more than the tolerance."""
    return np.asarray(np.abs(a - b).max(axis=-1) <= tolerance)


def corners_of(left_out: Mask) -> Mask:
    """Returns the corners of regions of blocks that are left out, [t, rows, columns].

    A corner has two neighbours outside the region, one beside it and one above or below it; outside the image is
    outside the region. Ends of strips of one block are corners too.
    """
    around = np.pad(left_out, ((0, 0), (1, 1), (1, 1)))
    upright = around[:, :-2, 1:-1] & around[:, 2:, 1:-1]
    level = around[:, 1:-1, :-2] & around[:, 1:-1, 2:]
    return np.asarray(left_out & ~upright & ~level)


def _keep_at_least(frame: Mask, least: int) -> None:
    """Keeps further blocks of a frame [rows, columns], evenly spread over those left out; in place."""
    missing = min(least, frame.size) - int(frame.sum())
    if missing > 0:
        others = np.flatnonzero(~frame)
        frame.flat[others[np.linspace(0, len(others) - 1, missing).round().astype(np.int64)]] = True
