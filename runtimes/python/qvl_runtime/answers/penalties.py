"""What transformers does to logits before a token is chosen, so that answers repeat themselves less.

The order is that of transformers: the penalty, then forbidden n-grams; temperature, top-k and top-p come after
(`sampling`). The prompt's tokens count as those of the answer do, image placeholders too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..common.checks import real, whole
from ..positions import Ints
from .sampling import Chooser, Logits


@dataclass(frozen=True)
class Penalties:
    """Logits of tokens that occurred are divided by `repetition_penalty` (negative ones multiplied); 1: as they are.

    No run of `no_repeat_ngram_size` tokens occurs twice; 0: any may. Raises PromptError for values out of range.
    """

    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0

    def __post_init__(self) -> None:
        penalty = real("repetition_penalty", self.repetition_penalty, "above 0, 1 changes nothing", above=True)
        size = whole("no_repeat_ngram_size", self.no_repeat_ngram_size, 0, "a whole number, 0 forbids nothing")
        object.__setattr__(self, "repetition_penalty", penalty)
        object.__setattr__(self, "no_repeat_ngram_size", size)

    def chooser(self, choose: Chooser, prompt: Ints) -> Chooser:
        """`choose` among penalised logits; the tokens it chose count for the next ones."""
        if self == Penalties():
            return choose
        ngrams, seen = _Ngrams(self.no_repeat_ngram_size, prompt.tolist()), np.zeros(0, np.bool_)

        def penalised(logits: Logits) -> int:
            nonlocal seen
            if not seen.size:
                seen = np.isin(np.arange(len(logits)), prompt)
            token = choose(ngrams.without_repeats(self.penalised(logits, seen)))
            seen[token] = True
            ngrams.append(token)
            return token

        return penalised

    def penalised(self, logits: Logits, seen: np.ndarray) -> Logits:
        """Logits [vocab] with the penalty on the tokens that were `seen` [vocab]."""
        penalty = np.float32(self.repetition_penalty)
        return np.where(seen, np.where(logits < 0, logits * penalty, logits / penalty), logits)


class _Ngrams:
    """What followed each run of `size` - 1 tokens so far; a `size` of 0 takes note of nothing."""

    def __init__(self, size: int, tokens: Sequence[int]) -> None:
        self._size, self._tokens = size, list[int]()
        self._followers: dict[tuple[int, ...], list[int]] = {}
        for token in tokens if size else ():
            self.append(token)

    def append(self, token: int) -> None:
        """Take note of the next token."""
        if self._size:
            self._followers.setdefault(self._last(), []).append(token)
            self._tokens.append(token)

    def without_repeats(self, logits: Logits) -> Logits:
        """-inf for tokens that would repeat a run of `size`, unless none would be left, as a schema may have it."""
        banned = self._followers.get(self._last()) if self._size else None
        if banned is None:
            return logits
        left = logits.copy()
        left[banned] = -np.inf
        return left if left.max() > -np.inf else logits

    def _last(self) -> tuple[int, ...]:
        """The last `size` - 1 tokens; fewer, at the beginning, are followed by nothing that counts."""
        return tuple(self._tokens[max(0, len(self._tokens) - self._size + 1) :])
