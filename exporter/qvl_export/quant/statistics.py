"""What the inputs of a linear look like over the calibration pages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import ExportError

Floats = npt.NDArray[np.float32]
KEPT_TOKENS = 1024
"""Tokens kept as they are, over all pages, to measure errors with."""


class Statistics(NamedTuple):
    """`largest` magnitude of each channel [K], some `tokens` [T, K], and `hessian` [K, K] = Σ x xᵀ where asked for."""

    largest: Floats
    tokens: Floats
    hessian: Floats | None

    def divided(self, scale: Floats) -> Statistics:
        """Those of the inputs divided by `scale` [K]."""
        hessian = None if self.hessian is None else self.hessian / (scale * scale[:, None])
        return Statistics(self.largest / scale, self.tokens / scale, hessian)


@dataclass
class Collector:
    """Gathers the statistics of one input over `pages` pages."""

    name: str
    pages: int
    hessian: bool

    def __post_init__(self) -> None:
        self._kept: list[Floats] = []
        self._largest: Floats | None = None
        self._hessian: Floats | None = None

    def add(self, x: Floats, counts: Floats | None = None) -> None:
        """Take in the tokens [T, K] of one page, each counting 1 or its part of `counts` [T] in the Hessian.

        Raises ExportError where they are not finite.
        """
        largest = np.abs(x).max(axis=0)
        if not np.isfinite(largest).all():
            raise ExportError(
                f"the activations before {self.name} are not finite", fix="check the checkpoint and the pages"
            )
        self._largest = largest if self._largest is None else np.maximum(self._largest, largest)
        places = np.unique(np.linspace(0, len(x) - 1, max(1, KEPT_TOKENS // self.pages)).astype(int))
        self._kept.append(x[places])
        if self.hessian:
            weighted = x if counts is None else x * counts[:, None]
            product = np.asarray(x.T @ weighted, np.float32)
            if self._hessian is None:
                self._hessian = product
            else:
                self._hessian += product  # in place: at 8,960 columns it takes 321 MB

    def statistics(self) -> Statistics:
        assert self._largest is not None
        return Statistics(self._largest, np.concatenate(self._kept), self._hessian)
