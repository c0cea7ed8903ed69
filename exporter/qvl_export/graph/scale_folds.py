"""Folds: where a scale of a linear's inputs can move into the outputs of the preceding operation."""

from __future__ import annotations

from dataclasses import dataclass

from ..common.arrays import Ints


@dataclass(frozen=True)
class Fold:
    """Input channel k of `linears` is output `channels[k]` of `source`, a norm or linear with no other readers.

    Multiplying the linears' channels and dividing the source's outputs by the same numbers does not change the result.
    The outputs of a `cached` source are stored in the KV cache: graphs that share the cache must use the same numbers.
    """

    linears: tuple[str, ...]
    source: str
    channels: Ints
    cached: bool = False
