"""What the inputs of a linear look like over the calibration pages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import ExportError
from .gptq import hessian as gram

Floats = npt.NDArray[np.float32]
KEPT_TOKENS = 1024
"""Tokens kept as they are, over all pages, to measure errors with."""
LEAST_A_PAGE = 8
"""Of every page at least: the first token of all pages is one and the same."""


class Statistics(NamedTuple):
    """`largest` magnitude of each channel [K], some `tokens` [T, K], and `hessian` [K, K] = Σ x xᵀ where asked for."""

    largest: Floats
    tokens: Floats
    hessian: Floats | None

    def divided(self, scale: Floats) -> Statistics:
        """Those of the inputs divided by `scale` [K]."""
        hessian = None if self.hessian is None else self.hessian / (scale * scale[:, None])
        return Statistics(self.largest / scale, self.tokens / scale, hessian)


class Part(NamedTuple):
    """What some pages add to the statistics of an input; `products` are those of their Hessian, see `gram`."""

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

    def add(self, x: Floats, counts: Floats | None = None) -> None:
        """Take in the tokens [T, K] of one page, each counting 1 or its part of `counts` [T] in the Hessian.

        Raises ExportError where they are not finite.
        """
        largest = np.abs(x).max(axis=0)
        if not np.isfinite(largest).all():
            raise ExportError(
                f"the activations before {self.name} are not finite", fix="check the checkpoint and the pages"
            )
        places = np.unique(np.linspace(0, len(x) - 1, max(LEAST_A_PAGE, KEPT_TOKENS // self.pages)).astype(int))
        self._keep(largest, x[places])
        if self.hessian:
            if self._products is None:
                self._products = gram.zeros(x.shape[1])
            gram.add(self._products, x, counts)

    def join(self, part: Part) -> None:
        """Take in what the pages that follow add."""
        self._keep(part.largest, part.tokens)
        if self._products is None:
            self._products = part.products
        elif part.products is not None:
            self._products += part.products

    def part(self) -> Part:
        """What is gathered so far, as a part of more."""
        assert self._largest is not None
        return Part(self._largest, np.concatenate(self._kept), self._products)

    def statistics(self) -> Statistics:
        assert self._largest is not None
        hessian = None if self._products is None else gram.whole(self._products, len(self._largest))
        return Statistics(self._largest, np.concatenate(self._kept), hessian)

    def _keep(self, largest: Floats, tokens: Floats) -> None:
        self._largest = largest if self._largest is None else np.maximum(self._largest, largest)
        self._kept.append(tokens)
