"""Stops an answer that repeats the same tokens over and over, the classic failure of models that read documents."""

from __future__ import annotations

import contextlib
from collections.abc import Generator

import numpy as np

from .generate import GenerationStats

LONGEST = 256
"""Most tokens of the part that repeats."""
REPEATS, TOKENS = 4, 128
"""A loop is a part that occurs this many times in a row, and this many tokens together.

Pages do repeat themselves: dotted lines, empty rows of a form. No truth of the sets in `calib_data` is a loop
(`tests/runtime/test_loops.py`).
"""


class LoopDetector:
    """Watches an answer's tokens; the cost of a token does not depend on how many there were."""

    def __init__(self) -> None:
        self._recent = np.full(LONGEST, -1, np.int64)
        """The last tokens, the latest first."""
        self._equal = np.zeros(LONGEST, np.int64)
        """At index p − 1: how many of the last tokens in a row equal the token p places before them."""
        periods = np.arange(1, LONGEST + 1)
        self._needed = np.maximum(REPEATS * periods, TOKENS) - periods

    def add(self, token: int) -> int:
        """Takes the next token; returns the length of the part that loops, 0 if none does."""
        self._equal = np.where(self._recent == token, self._equal + 1, 0)
        self._recent = np.concatenate(([token], self._recent[:-1]))
        looping = np.flatnonzero(self._equal >= self._needed)
        return int(looping[0]) + 1 if len(looping) else 0


def stopping_loops(tokens: Generator[int], stats: GenerationStats) -> Generator[int]:
    """Yields tokens until they loop; `stats.finish_reason` is then "loop", `stats.loop` the length of the part."""
    detector = LoopDetector()
    with contextlib.closing(tokens):
        for token in tokens:
            yield token
            if length := detector.add(token):
                break
        else:
            return
    stats.finish_reason, stats.loop = "loop", length
