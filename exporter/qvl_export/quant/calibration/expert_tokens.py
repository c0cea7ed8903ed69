"""Tokens that are routed to experts, kept on disk, and the router's choice of experts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np

from ...checkpoint.safetensors_reader import StoredTensor
from ...common.arrays import Floats, Ints

TOKENS_AT_ONCE = 4096


@dataclass
class Routed:
    """The tokens of some pages that reach a layer's experts, in the file `file`; each goes to `chosen` experts.

    `experts` and `shares` hold one array per page, [T, chosen].
    """

    file: Path
    chosen: int
    experts: list[Ints] = field(default_factory=list)
    shares: list[Floats] = field(default_factory=list)

    def add(self, file: IO[bytes], x: Floats, scores: Floats) -> None:
        """Adds the tokens x [1, T, K] of one page with the router's scores [T, experts].

        The tokens are appended to the open `file`, which becomes `self.file` when it is closed.
        """
        experts = np.argpartition(-scores, self.chosen - 1, axis=1)[:, : self.chosen]
        best = np.take_along_axis(scores, experts, axis=1)
        shares = np.exp(best - best.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        file.write(np.ascontiguousarray(x, np.float32).tobytes())
        self.experts.append(experts)
        self.shares.append(shares)

    def tokens(self, expert: int, columns: int) -> Iterator[tuple[Floats, Floats]]:
        """Yields an expert's tokens [t, columns] and its share of each [t, 1], up to TOKENS_AT_ONCE at a time."""
        experts, shares = np.concatenate(self.experts), np.concatenate(self.shares)
        stored = StoredTensor(self.file.name, self.file, np.dtype(np.float32), (len(experts), columns), 0)
        indices, ranks = np.nonzero(experts == expert)
        for first in range(0, len(indices), TOKENS_AT_ONCE):
            mine = slice(first, first + TOKENS_AT_ONCE)
            yield stored.rows(indices[mine]), shares[indices[mine], ranks[mine], None]
