"""Tokens of an answer on their way through the engine: chosen ones that wait, and guesses that were run with them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from .lookup import Lookup
from .sampling import Logits

Run = Callable[[list[int], int, int], npt.NDArray[np.float32]]
"""Tokens, the index of the first in the answer, n → logits [1 + n, vocab] after the last but n, and each after it.

Tokens that were run at these indices before are not run again if the cache can continue after them."""


class PendingTokens:
    """Gives the logits after an answer's tokens, running them in as few calls as possible.

    `logits` are those after the prompt; `run` runs tokens of the answer, dropping what was run at later indices.
    `proposed` and `accepted` count guesses.
    """

    def __init__(self, logits: Logits, run: Run, lookup: Lookup, limit: int) -> None:
        self._logits, self._run, self._lookup, self._limit = logits, run, lookup, limit
        self._waiting: list[int] = []
        self._ran: list[int] = []  # the tokens of the latest call, without guesses that are not accepted
        self._guesses: deque[tuple[int, Logits]] = deque()  # that were run, and the logits after each
        self._count = self.proposed = self.accepted = 0

    def add(self, token: int) -> None:
        """Takes the next token of the answer; it is run when its logits are asked for."""
        self._count += 1
        self._lookup.add(token)
        if self._guesses and self._guesses[0][0] == token:
            _, self._logits = self._guesses.popleft()
            self._lookup.accept()
            self.accepted += 1
            self._ran.append(token)
        else:
            if self._guesses:  # the other guesses are wrong: the call is undone, of which some tokens stay
                self._waiting = [*self._ran]
            self._guesses.clear()
            self._waiting.append(token)

    def logits(self) -> Logits:
        """Returns the logits [vocab] after all tokens."""
        if self._waiting:
            guesses = self._lookup.guess(self._limit - self._count - 1)
            rows = self._run([*self._waiting, *guesses], self._count - len(self._waiting), len(guesses))
            self._logits = rows[0]
            self._guesses.extend(zip(guesses, rows[1:], strict=True))
            self._ran, self._waiting = self._waiting, []
            self.proposed += len(guesses)
        return self._logits

    def last(self) -> Logits:
        """Returns the latest logits there are, for a choice that does not depend on them."""
        return self._logits
