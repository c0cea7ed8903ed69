"""Chooses, for the media of one prompt, the blocks that the model sees."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from ..manifest import Manifest
from ..media.images import Frame
from ..pdf import PdfPage
from ..positions import Grid
from ..preprocess import Pixels, image_tokens, resized_frames
from ..prune.blocks import kept_blocks
from ..prune.kept import Kept
from ..prune.rule import OFF, Rule, check_grid, least_blocks
from .content import Media

HELD_BYTES = 64 << 20
"""Of resized pixels that the media of a prompt keep for the vision tower, so that they are not resized twice."""
DRAWN_BYTES = 128 << 20
"""Of drawn pages of PDFs that are kept while sizes are tried: 20 A4 pages. Others are drawn for every size."""


class Selection:
    """Blocks by media and grid, computed once each; media without a rule of their own follow the `default`."""

    def __init__(self, manifest: Manifest, default: Rule | None = None) -> None:
        self._manifest, self._default = manifest, default or OFF
        self._found: dict[tuple[int, Grid], Kept | None] = {}
        self._held: dict[int, int] = {}
        self._drawings: dict[int, Frame] = {}
        self._space = 0

    @contextlib.contextmanager
    def keeping_drawings(self) -> Iterator[None]:
        """Keeps pages of PDFs that are drawn in the block until it ends, up to `DRAWN_BYTES`."""
        self._space = DRAWN_BYTES
        try:
            yield
        finally:
            self._drawings.clear()
            self._space = 0

    def kept(self, item: Media, grid: Grid) -> Kept | None:
        """Returns the blocks that are kept of media resized to `grid`; None if all are.

        Raises PromptError if they are to be left out of images that the model cannot take in part.
        """
        rule = item.prune or self._default
        check_grid(rule, self._manifest)
        if rule.tolerance is None:
            return None
        key = id(item), grid  # media live as long as their prompt is built
        if key not in self._found:
            self._found[key] = self._choose(item, grid, rule.tolerance)
        return self._found[key]

    def tokens(self, item: Media, grid: Grid) -> int:
        """Returns the number of image tokens of media resized to `grid`."""
        kept = self.kept(item, grid)
        return image_tokens(grid, self._manifest.image) if kept is None else kept.tokens

    def fit(self, resized: Sequence[tuple[Media, Grid]], budget: int) -> bool:
        """Whether media, resized to grids, have at most `budget` image tokens; draws only as many as tell."""
        if sum(image_tokens(grid, self._manifest.image) for _, grid in resized) <= budget:
            return True
        for item, grid in resized:
            budget -= self.tokens(item, grid)
            if budget < 0:
                return False
        return True

    def _choose(self, item: Media, grid: Grid, tolerance: float) -> Kept | None:
        geometry = self._manifest.image
        pixels = resized_frames(self._drawn(item), geometry, grid)
        self._hold(item, pixels, grid)
        frames = pixels.reshape(grid.t, -1, *pixels.shape[1:])
        frames = frames[:, :1] if item.kind == "image" else frames  # the others repeat it
        return Kept.of(kept_blocks(frames, geometry.factor, tolerance, least_blocks(self._manifest)))

    def _drawn(self, item: Media) -> tuple[Frame, ...]:
        """Returns the frames of media; a page of a PDF is drawn, if it can be kept for other sizes."""
        page = item.frames[0]
        if not isinstance(page, PdfPage):
            return item.frames
        size = 3 * page.size[0] * page.size[1]
        if id(item) not in self._drawings and size <= self._space:
            self._drawings[id(item)] = page.draw()
            self._space -= size
        return (self._drawings.get(id(item), page),)

    def _hold(self, item: Media, pixels: Pixels, grid: Grid) -> None:
        """Lets the media keep their pixels for the tower, unless those of the prompt become too many."""
        others = sum(size for key, size in self._held.items() if key != id(item))
        if others + pixels.nbytes <= HELD_BYTES:
            self._held[id(item)] = pixels.nbytes
            item.hold(pixels, grid)
