"""Choosing the next token from its logits."""

from __future__ import annotations

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
    if temperature < 0 or not 0 < top_p <= 1 or top_k < 0:
        raise PromptError(
            f"temperature {temperature}, top_p {top_p}, top_k {top_k} are out of range",
            fix="temperature ≥ 0, 0 < top_p ≤ 1, top_k ≥ 0 (0 keeps all)",
        )
    if temperature == 0:
        return lambda logits: int(logits.argmax())
    rng = np.random.default_rng(seed)
    return lambda logits: int(rng.choice(len(logits), p=probabilities(logits, temperature, top_p, top_k)))


def probabilities(logits: Logits, temperature: float, top_p: float, top_k: int) -> npt.NDArray[np.float64]:
    """Softmax at `temperature` over the `top_k` likeliest tokens, cut to the smallest set of mass `top_p`."""
    scores = logits.astype(np.float64) / temperature
    order = np.argsort(-scores, kind="stable")
    kept = order[: top_k or None]
    mass = np.exp(scores[kept] - scores[kept[0]])
    mass /= mass.sum()
    nucleus = np.cumsum(mass) - mass < top_p
    result = np.zeros(len(logits))
    result[kept[nucleus]] = mass[nucleus] / mass[nucleus].sum()
    return result
