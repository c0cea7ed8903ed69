"""Which blocks of an image or video are kept, and the vision graph's indices for them.

Cells are numbered row by row, as image tokens are; patches are in merge order (`positions`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..common.arrays import Ints
from ..manifest import ImageGeometry
from .blocks import Mask


@dataclass(frozen=True)
class Kept:
    """The cells of each temporal patch that the model sees, in order."""

    frames: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, mask: Mask) -> Kept | None:
        """Returns the cells of a mask [t, rows, columns]; None if it keeps them all."""
        if mask.all():
            return None
        return cls(tuple(tuple(np.flatnonzero(frame).tolist()) for frame in mask))

    @cached_property
    def tokens(self) -> int:
        """The number of image tokens."""
        return sum(map(len, self.frames))

    @cached_property
    def digest(self) -> bytes:
        """A hash of the cells; computed once, since a video of many blocks in the prompt asks for it for each."""
        return hashlib.sha256(repr(self.frames).encode()).digest()

    def flat(self, first: int, count: int, size: int) -> tuple[int, ...]:
        """Returns the cells of `count` temporal patches from `first` on, numbered through; each has `size` cells."""
        chosen = self.frames[first : first + count]
        return tuple(index * size + cell for index, cells in enumerate(chosen) for cell in cells)

    def first_row(self, frame: int) -> int:
        """Returns the number of image tokens of the temporal patches before `frame`."""
        return sum(map(len, self.frames[:frame]))

    def groups(self) -> Iterator[tuple[list[int], Ints]]:
        """Yields the temporal patches that keep the same cells, and these cells: they can be one batch."""
        found: dict[tuple[int, ...], list[int]] = {}
        for index, cells in enumerate(self.frames):
            found.setdefault(cells, []).append(index)
        for cells, frames in found.items():
            yield frames, np.array(cells, dtype=np.int64)


def patches_of(cells: Ints, merge: int) -> Ints:
    """Returns the indices of the patches of cells [n] in merge order: [n · merge²]."""
    unit = merge * merge
    return np.asarray((cells[:, None] * unit + np.arange(unit)).ravel())


def only(feeds: Mapping[str, np.ndarray], cells: Ints, image: ImageGeometry) -> dict[str, np.ndarray]:
    """Returns the vision graph's inputs (`sessions.feeds.vision_feeds`) for the patches of `cells` of every frame.

    Patches keep their rows, columns and interpolated positions; windows become smaller, and empty ones are left out.
    """
    patches = patches_of(cells, image.spatial_merge_size)
    kept = {"patch_positions": np.ascontiguousarray(feeds["patch_positions"][:, patches])}
    if image.window:
        size = (image.window * image.spatial_merge_size) ** 2
        kept |= _windows(feeds["window_scatter"][patches], size, len(feeds["patch_positions"]))
    for name in ("interpolation_indices", "interpolation_weights"):
        if name in feeds:
            kept[name] = np.ascontiguousarray(feeds[name][:, patches])
    return kept


def _windows(slots: Ints, size: int, frames: int) -> dict[str, np.ndarray]:
    """Moves the patches [n] in `slots` of windows of `size` to the front of their window, in the order they had."""
    _, windows, lengths = np.unique(slots // size, return_inverse=True, return_counts=True)
    order = np.argsort(slots)
    ranks = np.arange(len(slots)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    scatter = np.empty_like(slots)
    scatter[order] = windows[order] * size + ranks
    gather = np.zeros(len(lengths) * size, dtype=np.int64)
    gather[scatter] = np.arange(len(slots))
    return {
        "window_gather": gather,
        "window_scatter": scatter,
        "window_lengths": np.tile(lengths.astype(np.int32), frames),
    }
