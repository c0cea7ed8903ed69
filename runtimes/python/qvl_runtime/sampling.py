"""Choosing the next token from its logits."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .errors import EngineError, PromptError

Logits = npt.NDArray[np.float32]
Chooser = Callable[[Logits], int]


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn: greedy at `temperature` 0, else from the `top_k` likeliest (0: all) within mass `top_p`.

    Raises PromptError for values out of range.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None

    def __post_init__(self) -> None:
        number = int | float
        for name, good, rule in (
            ("temperature", isinstance(self.temperature, number) and 0 <= self.temperature < math.inf, "0 or more"),
            ("top_p", isinstance(self.top_p, number) and 0 < self.top_p <= 1, "above 0, at most 1"),
            ("top_k", isinstance(self.top_k, int) and self.top_k >= 0, "a whole number, 0 keeps all"),
            ("seed", self.seed is None or (isinstance(self.seed, int) and self.seed >= 0), "a whole number, 0 or more"),
        ):
            if not good:
                raise PromptError(f"{name} is {getattr(self, name)!r}", fix=rule)

    def chooser(self) -> Chooser:
        """A function from logits [vocab] to a token id, with a random state of its own."""
        if self.temperature == 0:
            return _best
        rng = np.random.default_rng(self.seed)

        def draw(logits: Logits) -> int:
            _best(logits)  # there must be one
            return int(rng.choice(len(logits), p=self.probabilities(logits)))

        return draw

    def probabilities(self, logits: Logits) -> npt.NDArray[np.float64]:
        """Softmax at `temperature` over the `top_k` likeliest tokens, cut to the smallest set of mass `top_p`."""
        scores = logits.astype(np.float64)
        kept = _likeliest(scores, self.top_k) if 0 < self.top_k < len(scores) else _falling(scores)
        with np.errstate(over="ignore"):  # a tiny temperature: all mass on the best
            mass = np.exp((scores[kept] - scores[kept[0]]) / self.temperature)
        mass /= mass.sum()
        nucleus = np.cumsum(mass) - mass < self.top_p
        result = np.zeros(len(logits))
        result[kept[nucleus]] = mass[nucleus] / mass[nucleus].sum()
        return result


def _best(logits: Logits) -> int:
    """The likeliest token, the first of equals; raises EngineError for logits that are no numbers."""
    best = int(logits.argmax())  # a NaN, where there is one
    if not np.isfinite(logits[best]):
        raise EngineError("the model gives logits that are not finite", fix="`inspect --verify` the bundle")
    return best


def _falling(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """Indices from the highest score to the lowest, the lower index first among equals."""
    return np.argsort(-scores, kind="stable")


def _likeliest(scores: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.intp]:
    """The first `count` of `_falling(scores)` without sorting the whole vocabulary."""
    border = np.partition(scores, -count)[-count]
    above, equal = np.flatnonzero(scores > border), np.flatnonzero(scores == border)
    chosen = np.sort(np.concatenate((above, equal[: count - len(above)])))
    return np.asarray(chosen[_falling(scores[chosen])])
