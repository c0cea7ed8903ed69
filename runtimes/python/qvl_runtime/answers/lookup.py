"""Guesses an answer's next tokens: those that followed where its last tokens occurred before (prompt lookup).

The guesses are run in one call with the token before them, and the model's own choices decide how many of them stay.
"""

from __future__ import annotations

from collections.abc import Sequence

NGRAM = 3
"""Tokens that have to agree before the ones that followed are guessed."""
MOST = 8
"""Guesses per call."""
COST = 0.4
"""What a guess is taken to cost, in calls of one token; 0.1 to 0.4 were measured (docs/benchmarks.md, Known tokens)."""
START, INTEREST = 1.0, 0.02
"""What guessing may lose, in calls of one token: at first, and more with each token of the answer."""


class Lookup:
    """Guesses for one answer to `prompt`; guesses that do not pay are left out until there is something to lose again.

    The `allowance` pays for guesses and is repaid by accepted ones, so that all guesses of an answer together lose at
    most START and, with each token, INTEREST.
    """

    def __init__(self, prompt: Sequence[int]) -> None:
        self._tokens: list[int] = []
        self._next: dict[tuple[int, ...], int] = {}  # where the token after an n-gram was last seen
        self.allowance = START
        for token in prompt:
            self._append(token)

    def _append(self, token: int) -> None:
        if len(self._tokens) >= NGRAM:
            self._next[self._last()] = len(self._tokens)
        self._tokens.append(token)

    def _last(self) -> tuple[int, ...]:
        return tuple(self._tokens[-NGRAM:])

    def add(self, token: int) -> None:
        """Records the next token of the answer."""
        self._append(token)
        self.allowance += INTEREST

    def guess(self, most: int) -> list[int]:
        """Returns at most `most` tokens that may follow, and pays for them."""
        start, count = self._next.get(self._last()), min(most, MOST, int(self.allowance / COST))
        if start is None or count < 1:
            return []
        period = len(self._tokens) - start  # what has repeated itself so far may go on
        guesses = [self._tokens[start + index % period] for index in range(count)]
        self.allowance -= COST * len(guesses)
        return guesses

    def accept(self) -> None:
        """Is called for each guess that was right."""
        self.allowance += 1


class NoLookup(Lookup):
    """Guesses nothing."""

    def __init__(self) -> None:
        super().__init__(())

    def add(self, token: int) -> None: ...

    def guess(self, most: int) -> list[int]:
        return []
