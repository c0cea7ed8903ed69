"""Repetition penalties on logits, as in transformers.

The order is that of transformers: the penalty, then forbidden n-grams; temperature, top-k and top-p come after
(`sampling`). Prompt tokens count like answer tokens, image placeholders included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..common.arrays import Ints
from ..common.checks import check_float, check_int
from .sampling import Logits, TokenPicker


@dataclass(frozen=True)
class Penalties:
    """Divides the logits of tokens that occurred by `repetition_penalty` (multiplies negative ones); 1 disables it.

    No n-gram of `no_repeat_ngram_size` tokens occurs twice; 0 disables it. Raises PromptError for values out of range.
    """

    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0

    def __post_init__(self) -> None:
        penalty = check_float("repetition_penalty", self.repetition_penalty, above=True, fix="1 disables it")
        size = check_int("no_repeat_ngram_size", self.no_repeat_ngram_size, 0, fix="0 disables it")
        object.__setattr__(self, "repetition_penalty", penalty)
        object.__setattr__(self, "no_repeat_ngram_size", size)

    def picker(self, pick: TokenPicker, prompt: Ints) -> TokenPicker:
        """Applies `pick` to penalized logits; the tokens it chooses count as seen from then on."""
        if self == Penalties():
            return pick
        ngrams, seen = _Ngrams(self.no_repeat_ngram_size, prompt.tolist()), _Seen(prompt)
        memory = np.empty(0, np.float32)

        def penalized(logits: Logits) -> int:
            nonlocal memory
            if self.repetition_penalty != 1:
                memory = memory if memory.shape == logits.shape else np.empty_like(logits)
                self.penalize(logits, seen.tokens, memory)
                logits = memory
            token = pick(ngrams.without_repeats(logits))
            seen.add(token)
            ngrams.append(token)
            return token

        return penalized

    def penalize(self, logits: Logits, tokens: Ints, result: Logits) -> None:
        """Writes logits [vocab] to `result` [vocab], with the penalty applied to `tokens` [n], each given once."""
        np.copyto(result, logits)
        penalty, found = np.float32(self.repetition_penalty), logits[tokens]
        result[tokens] = np.where(found < 0, found * penalty, found / penalty)


class _Seen:
    """The tokens of a prompt and its answer so far, each once: `tokens` [n]."""

    def __init__(self, prompt: Ints) -> None:
        self.tokens = np.unique(prompt)
        self._known = set(self.tokens.tolist())

    def add(self, token: int) -> None:
        """Adds the next token of the answer."""
        if token not in self._known:
            self._known.add(token)
            self.tokens = np.append(self.tokens, token)


class _Ngrams:
    """The tokens that have followed each (`size` - 1)-gram so far; with a `size` of 0 nothing is recorded."""

    def __init__(self, size: int, tokens: Sequence[int]) -> None:
        self._size, self._tokens = size, list[int]()
        self._followers: dict[tuple[int, ...], list[int]] = {}
        for token in tokens if size else ():
            self.append(token)

    def append(self, token: int) -> None:
        """Records the next token."""
        if self._size:
            self._followers.setdefault(self._last(), []).append(token)
            self._tokens.append(token)

    def without_repeats(self, logits: Logits) -> Logits:
        """Sets tokens that would repeat an n-gram to -inf, unless none would be left, as may happen with a schema."""
        banned = self._followers.get(self._last()) if self._size else None
        if banned is None:
            return logits
        left = logits.copy()
        left[banned] = -np.inf
        return left if left.max() > -np.inf else logits

    def _last(self) -> tuple[int, ...]:
        """Returns the last `size` - 1 tokens; near the beginning fewer, which can never match a full n-gram."""
        return tuple(self._tokens[max(0, len(self._tokens) - self._size + 1) :])
