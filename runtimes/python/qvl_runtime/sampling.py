"""Choosing the next token from its logits."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from .errors import PromptError

Logits = npt.NDArray[np.float32]
Chooser = Callable[[Logits], int]


def chooser(temperature: float, top_p: float, top_k: int, seed: int | None) -> Chooser:
    """A function from logits [vocab] to a token id: greedy at temperature 0, else sampled from the nucleus.

    Raises PromptError for options out of range.
    """
    number = int | float
    for name, value, good, rule in (
        ("temperature", temperature, isinstance(temperature, number) and 0 <= temperature < math.inf, "0 or more"),
        ("top_p", top_p, isinstance(top_p, number) and 0 < top_p <= 1, "above 0, at most 1"),
        ("top_k", top_k, isinstance(top_k, int) and top_k >= 0, "a whole number, 0 keeps all"),
        ("seed", seed, seed is None or (isinstance(seed, int) and seed >= 0), "a whole number, 0 or more"),
    ):
        if not good:
            raise PromptError(f"{name} is {value!r}", fix=rule)
    if temperature == 0:
        return lambda logits: int(logits.argmax())
    rng = np.random.default_rng(seed)
    return lambda logits: int(rng.choice(len(logits), p=probabilities(logits, temperature, top_p, top_k)))


def probabilities(logits: Logits, temperature: float, top_p: float, top_k: int) -> npt.NDArray[np.float64]:
    """Softmax at `temperature` over the `top_k` likeliest tokens, cut to the smallest set of mass `top_p`."""
    scores = logits.astype(np.float64)
    kept = np.argsort(-scores, kind="stable")[: top_k or None]
    with np.errstate(over="ignore"):  # a tiny temperature: all mass on the best
        mass = np.exp((scores[kept] - scores[kept[0]]) / temperature)
    mass /= mass.sum()
    nucleus = np.cumsum(mass) - mass < top_p
    result = np.zeros(len(logits))
    result[kept[nucleus]] = mass[nucleus] / mass[nucleus].sum()
    return result
