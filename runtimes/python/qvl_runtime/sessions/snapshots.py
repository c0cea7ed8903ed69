"""Copies of recurrent states after some numbers of tokens, which later calls continue from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

SNAPSHOTS = 4
"""Most copies of recurrent states that are kept."""
Copy = Mapping[str, npt.NDArray[np.floating]]
"""Arrays by the names of what they continue."""


class Snapshots:
    """A few copies by the number of tokens that they sum up; those that save the fewest tokens go first."""

    def __init__(self) -> None:
        self._copies: dict[int, Copy] = {}

    def __contains__(self, tokens: object) -> bool:
        return tokens in self._copies

    def __getitem__(self, tokens: int) -> Copy:
        return self._copies[tokens]

    def counts(self) -> Iterable[int]:
        """The numbers of tokens after which there is a copy."""
        return self._copies.keys()

    def keep(self, tokens: int, copy: Copy) -> None:
        """Adds a copy, and drops the one that saves the fewest tokens if there are more than SNAPSHOTS."""
        self._copies[tokens] = copy
        if len(self._copies) > SNAPSHOTS:
            del self._copies[_least_useful(self._copies)]

    def drop_after(self, tokens: int) -> None:
        """Drops the copies of states after more tokens, which are being replaced."""
        self._copies = {count: copy for count, copy in self._copies.items() if count <= tokens}


def _least_useful(counts: Iterable[int]) -> int:
    """Returns the count that is the fewest tokens after the one before it, the last left out."""
    ordered = sorted(counts)
    gaps = {count: count - before for before, count in zip((0, *ordered), ordered[:-1], strict=False)}
    return min(gaps, key=lambda count: gaps[count])
