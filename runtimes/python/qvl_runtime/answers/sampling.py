"""Choosing the next token from its logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..common.arrays import Doubles, Floats
from ..common.checks import check_float, check_int
from ..errors import EngineError

Logits = Floats
Indices = npt.NDArray[np.intp]
TokenPicker = Callable[[Logits], int]


@dataclass(frozen=True)
class Sampling:
    """Sampling options: greedy at `temperature` 0, else from the `top_k` likeliest (0: all) within mass `top_p`.

    Of these only tokens at least `min_p` times as likely as the likeliest are kept. NumPy numbers are accepted.
    Raises PromptError for values out of range.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    min_p: float = 0.0

    def __post_init__(self) -> None:
        checked = {
            "temperature": check_float("temperature", self.temperature),
            "top_p": check_float("top_p", self.top_p, most=1, above=True),
            "top_k": check_int("top_k", self.top_k, 0, fix="0 keeps all tokens"),
            "seed": None if self.seed is None else check_int("seed", self.seed, 0),
            "min_p": check_float("min_p", self.min_p, most=1),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def picker(self) -> TokenPicker:
        """Returns a function from logits [vocab] to a token id, with its own random state."""
        if self.temperature == 0:
            return _best
        rng = np.random.default_rng(self.seed)

        def draw(logits: Logits) -> int:
            _best(logits)  # raises if logits are not finite
            tokens, chances = self._nucleus(logits)
            mass = np.cumsum(chances)
            return int(tokens[np.searchsorted(mass / mass[-1], rng.random(), side="right")])

        return draw

    def probabilities(self, logits: Logits) -> Doubles:
        """Softmax at `temperature` over the `top_k` likeliest tokens, cut to the smallest set of mass `top_p`.

        Filters apply in the order of transformers: `top_k`, then `top_p`, then `min_p`.
        """
        tokens, chances = self._nucleus(logits)
        result = np.zeros(len(logits))
        result[tokens] = chances
        return result

    def _nucleus(self, logits: Logits) -> tuple[Indices, Doubles]:
        """Returns the tokens that may be drawn, in the order of their ids, and their probabilities.

        The logits are sorted, and not the tokens, which takes a tenth of the time.
        """
        count = self.top_k if 0 < self.top_k < len(logits) else len(logits)
        falling = np.sort(logits if count == len(logits) else np.partition(logits, -count)[-count:])[::-1]
        mass = self._mass(falling, falling[0])
        total = mass.sum()
        mass /= total
        kept = mass[(np.cumsum(mass) - mass < self.top_p) & (mass >= self.min_p * mass[0])]
        tokens = _likeliest(logits, falling[len(kept) - 1], len(kept))
        return tokens, self._mass(logits[tokens], falling[0]) / total / kept.sum()

    def _mass(self, logits: Logits, highest: np.float32) -> Doubles:
        with np.errstate(over="ignore"):  # with a tiny temperature all mass is on the best token
            return np.asarray(np.exp((logits.astype(np.float64) - highest) / self.temperature))


def _best(logits: Logits) -> int:
    """Returns the likeliest token, the first among equals; raises EngineError if its logit is not finite."""
    best = int(logits.argmax())  # the index of a NaN if there is one
    if not np.isfinite(logits[best]):
        raise EngineError("the model's logits are not finite", fix="check the bundle with `inspect --verify`")
    return best


def _likeliest(logits: Logits, least: np.float32, count: int) -> Indices:
    """Returns the `count` likeliest tokens in the order of their ids, given the lowest of their logits.

    Of tokens with equal logits the lower ids come first.
    """
    above, equal = np.flatnonzero(logits > least), np.flatnonzero(logits == least)
    return np.sort(np.concatenate((above, equal[: count - len(above)])))
