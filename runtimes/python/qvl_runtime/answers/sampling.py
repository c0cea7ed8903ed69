"""Choosing the next token from its logits."""

from __future__ import annotations

import math
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

PART = 256
"""Logits of which a maximum is taken, to find the likeliest tokens."""
CAUTION = 0.99
"""Tokens a little below a border are looked at, too: it is computed with rounding errors."""


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
        rng, nucleus = np.random.default_rng(self.seed), Nucleus(self)

        def draw(logits: Logits) -> int:
            tokens, mass = nucleus(logits)
            np.cumsum(mass, out=mass)
            mass /= mass[-1]
            place = int(np.searchsorted(mass, rng.random(), side="right"))
            return place if tokens is None else int(tokens[place])

        return draw

    def probabilities(self, logits: Logits) -> Doubles:
        """Softmax at `temperature` over the `top_k` likeliest tokens, cut to the smallest set of mass `top_p`.

        Filters apply in the order of transformers: `top_k`, then `top_p`, then `min_p`.
        """
        tokens, mass = Nucleus(self)(logits)
        result = np.zeros(len(logits))
        result[slice(None) if tokens is None else tokens] = mass / mass.sum()
        return result


class Nucleus:
    """From logits [vocab] to the tokens that may be drawn, in the order of their ids, and their mass.

    The tokens are None for the whole vocabulary. The likeliest token has a mass of 1. What is returned is overwritten
    by the next call: memory that is new for each token takes longer to get than to fill.
    Raises EngineError if a logit is not finite, except for tokens that are ruled out.
    """

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._memory = np.empty(0)

    def __call__(self, logits: Logits) -> tuple[Indices | None, Doubles]:
        tokens, count = None, self._sampling.top_k
        best = _finite(logits.max())
        if 0 < count < len(logits):
            tokens = likeliest(logits, count)
            logits = logits[tokens]
        mass = self._mass(logits, best)
        if self._sampling.top_p == 1 and self._sampling.min_p == 0:
            return tokens, mass
        kept = self._cut(logits, mass, best)
        return kept if tokens is None else tokens[kept], mass[kept]

    def _mass(self, logits: Logits, best: np.float32) -> Doubles:
        if len(self._memory) < len(logits):
            self._memory = np.empty(len(logits))
        mass = self._memory[: len(logits)]
        np.subtract(logits, best, out=mass, dtype=np.float64)
        with np.errstate(over="ignore"):  # with a tiny temperature all mass is on the best token
            mass /= self._sampling.temperature
        return np.exp(mass, out=mass)

    def _cut(self, logits: Logits, mass: Doubles, best: np.float32) -> Indices:
        """Returns the tokens within `top_p` and `min_p`. Only those are sorted that may be among them.

        If a token had less than an equal share of 1 - `top_p`, it and all below it would lie beyond `top_p`.
        """
        total = mass.sum()
        share = (1 - self._sampling.top_p) * total / len(mass)
        tokens = np.flatnonzero(mass >= CAUTION * max(share, self._sampling.min_p))
        candidates = logits[tokens]
        falling = np.sort(candidates)[::-1]
        chances = Nucleus(self._sampling)._mass(falling, best)
        chances /= total
        inside = (np.cumsum(chances) - chances < self._sampling.top_p) & (chances >= self._sampling.min_p * chances[0])
        count = int(inside.sum())
        return tokens[_at_least(candidates, falling[count - 1], count)]


def _best(logits: Logits) -> int:
    """Returns the likeliest token, the first among equals; raises EngineError if its logit is not finite."""
    best = int(logits.argmax())  # the index of a NaN if there is one
    _finite(logits[best])
    return best


def _finite(highest: np.float32) -> np.float32:
    if not math.isfinite(highest):
        raise EngineError("the model's logits are not finite", fix="check the bundle with `inspect --verify`")
    return highest


def likeliest(logits: Logits | Doubles, count: int) -> Indices:
    """Returns the `count` likeliest tokens in the order of their ids; of tokens with equal logits the lower ids.

    As many parts of the logits have a maximum of at least `bound`, so that no token below it is among them.
    """
    tokens = None
    maxima = logits[: len(logits) // PART * PART].reshape(-1, PART).max(axis=1)
    if count <= len(maxima):
        bound = np.partition(maxima, -count)[-count]
        tokens = np.flatnonzero(logits >= bound)
        logits = logits[tokens]
    found = _at_least(logits, np.partition(logits, -count)[-count], count)
    return found if tokens is None else tokens[found]


def _at_least(logits: Logits | Doubles, least: np.floating, count: int) -> Indices:
    """Returns the `count` likeliest tokens in the order of their ids, given the lowest of their logits.

    Of tokens with equal logits the lower ids come first.
    """
    found, equal = logits > least, np.flatnonzero(logits == least)
    found[equal[: count - np.count_nonzero(found)]] = True
    return np.flatnonzero(found)
