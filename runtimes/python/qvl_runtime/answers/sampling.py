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
            return int(rng.choice(len(logits), p=self.probabilities(logits)))

        return draw

    def probabilities(self, logits: Logits) -> Doubles:
        """Softmax at `temperature` over the `top_k` likeliest tokens, cut to the smallest set of mass `top_p`.

        Filters apply in the order of transformers: `top_k`, then `top_p`, then `min_p`.
        """
        scores = logits.astype(np.float64)
        kept = _likeliest(scores, self.top_k) if 0 < self.top_k < len(scores) else _falling(scores)
        with np.errstate(over="ignore"):  # with a tiny temperature all mass is on the best token
            mass = np.exp((scores[kept] - scores[kept[0]]) / self.temperature)
        mass /= mass.sum()
        nucleus = (np.cumsum(mass) - mass < self.top_p) & (mass >= self.min_p * mass[0])
        result = np.zeros(len(logits))
        result[kept[nucleus]] = mass[nucleus] / mass[nucleus].sum()
        return result


def _best(logits: Logits) -> int:
    """Returns the likeliest token, the first among equals; raises EngineError if its logit is not finite."""
    best = int(logits.argmax())  # the index of a NaN if there is one
    if not np.isfinite(logits[best]):
        raise EngineError("the model's logits are not finite", fix="check the bundle with `inspect --verify`")
    return best


def _falling(scores: Doubles) -> npt.NDArray[np.intp]:
    """Returns indices from the highest score to the lowest, the lower index first among equals."""
    return np.argsort(-scores, kind="stable")


def _likeliest(scores: Doubles, count: int) -> npt.NDArray[np.intp]:
    """Returns the first `count` of `_falling(scores)` without sorting the whole vocabulary."""
    border = np.partition(scores, -count)[-count]
    above, equal = np.flatnonzero(scores > border), np.flatnonzero(scores == border)
    chosen = np.sort(np.concatenate((above, equal[: count - len(above)])))
    return np.asarray(chosen[_falling(scores[chosen])])
