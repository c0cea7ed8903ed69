"""Chooses, for the media of one prompt, the blocks that the model sees."""

from __future__ import annotations

from ..manifest import Manifest
from ..positions import Grid
from ..preprocess import image_tokens, resized_frames
from ..prune.blocks import kept_blocks
from ..prune.kept import Kept
from ..prune.rule import OFF, Rule, check_grid, least_blocks
from .content import Media


class Selection:
    """Blocks by media and grid, computed once each; media without a rule of their own follow the `default`."""

    def __init__(self, manifest: Manifest, default: Rule | None = None) -> None:
        self._manifest, self._default = manifest, default or OFF
        self._found: dict[tuple[int, Grid], Kept | None] = {}

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

    def _choose(self, item: Media, grid: Grid, tolerance: float) -> Kept | None:
        geometry = self._manifest.image
        pixels = resized_frames(item.frames, geometry, grid)
        frames = pixels.reshape(grid.t, -1, *pixels.shape[1:])
        frames = frames[:, :1] if item.kind == "image" else frames  # the others repeat it
        return Kept.of(kept_blocks(frames, geometry.factor, tolerance, least_blocks(self._manifest)))
