"""Statistics of a linear's inputs over the calibration pages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..common.arrays import Floats
from ..errors import ExportError
from .gptq import hessian as gram

KEPT_TOKENS = 1024
"""Tokens kept over all pages, to measure output errors."""
LEAST_PER_PAGE = 8
"""Fewest tokens kept per page, more than one because the first token is the same on every page."""


class Statistics(NamedTuple):
    """`largest` magnitude per channel [K], some `tokens` [T, K], and `hessian` [K, K] = Σ x xᵀ if it was requested."""

    largest: Floats
    tokens: Floats
    hessian: Floats | None

    def divided(self, scale: Floats) -> Statistics:
        """The statistics of the inputs divided by `scale` [K]."""
        hessian = None if self.hessian is None else self.hessian / (scale * scale[:, None])
        return Statistics(self.largest / scale, self.tokens / scale, hessian)


class PartialStatistics(NamedTuple):
    """The contribution of some pages to an input's statistics; `products` is their part of the Hessian, see `gram`."""

    largest: Floats
    tokens: Floats
    products: Floats | None


@dataclass
class Collector:
    """Gathers the statistics of one input over `pages` pages."""

    name: str
    pages: int
    hessian: bool

    def __post_init__(self) -> None:
        self._kept: list[Floats] = []
        self._largest: Floats | None = None
        self._products: Floats | None = None

    def add(self, x: Floats) -> None:
        """Adds the tokens [T, K] of one page; raises ExportError if they are not finite."""
        largest = np.abs(x).max(axis=0)
        if not np.isfinite(largest).all():
            raise ExportError(
                f"the activations before {self.name} are not finite", fix="check the checkpoint and the pages"
            )
        kept = np.unique(np.linspace(0, len(x) - 1, max(LEAST_PER_PAGE, KEPT_TOKENS // self.pages)).astype(int))
        self._keep(largest, x[kept])
        if self.hessian:
            if self._products is None:
                self._products = gram.zeros(x.shape[1])
            gram.add(self._products, x)

    def join(self, part: PartialStatistics) -> None:
        """Adds the contribution of the pages that follow."""
        self._keep(part.largest, part.tokens)
        if self._products is None:
            self._products = part.products
        elif part.products is not None:
            self._products += part.products

    def part(self) -> PartialStatistics:
        """The statistics collected so far, to be joined with other pages."""
        assert self._largest is not None
        return PartialStatistics(self._largest, np.concatenate(self._kept), self._products)

    def statistics(self) -> Statistics:
        assert self._largest is not None
        hessian = None if self._products is None else gram.full_matrix(self._products, len(self._largest))
        return Statistics(self._largest, np.concatenate(self._kept), hessian)

    def _keep(self, largest: Floats, tokens: Floats) -> None:
        self._largest = largest if self._largest is None else np.maximum(self._largest, largest)
        self._kept.append(tokens)
