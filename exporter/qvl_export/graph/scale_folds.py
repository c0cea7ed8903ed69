"""Folds: where a scale of a linear's inputs can move into the outputs of the preceding operation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Fold:
    """Input channel k of `linears` is output `channels[k]` of `source`, a norm or linear with no other readers.

    Multiplying the linears' channels and dividing the source's outputs by the same numbers does not change the result.
    The outputs of a `cached` source are stored in the KV cache: graphs that share the cache must use the same numbers.
    """

    linears: tuple[str, ...]
    source: str
    channels: npt.NDArray[np.int64]
    cached: bool = False
