"""Log probabilities of an answer's tokens.

They are those of the model itself: log softmax of its logits, before penalties, temperature and schema. Values of two
requests, or of two bundles, can therefore be compared whatever the options were.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from ..common.arrays import Doubles
from ..common.checks import check_int
from ..errors import PromptError
from .sampling import Logits, TokenPicker, likeliest

MOST = 20
"""Most alternatives per token, as in OpenAI's interface."""


@dataclass(frozen=True)
class TokenLogprob:
    """A generated token and its natural log probability; `top` are the likeliest tokens and theirs, in this order."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


def alternatives(logprobs: bool, top_logprobs: int | None) -> int | None:
    """Returns how many alternatives per token are recorded, None if nothing is; raises PromptError if out of range."""
    count = 0 if top_logprobs is None else check_int("top_logprobs", top_logprobs, 0, MOST)
    if not isinstance(logprobs, bool):
        raise PromptError("logprobs must be True or False", fix="top_logprobs is the number of alternatives")
    if count and not logprobs:
        raise PromptError("top_logprobs needs logprobs")
    return count if logprobs else None


def recording(pick: TokenPicker, count: int, found: list[TokenLogprob], stop: Collection[int]) -> TokenPicker:
    """Returns `pick`, which now adds what it chooses to `found`, with `count` alternatives; `stop` tokens are not."""

    def recorded(logits: Logits) -> int:
        token = pick(logits)
        if token not in stop:
            found.append(_entry(log_softmax(logits), token, count))
        return token

    return recorded


def log_softmax(logits: Logits) -> Doubles:
    """Returns natural log probabilities of logits, over the last axis."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def _entry(values: Doubles, token: int, count: int) -> TokenLogprob:
    best = likeliest(values, min(count, len(values))) if count else np.empty(0, np.intp)
    best = best[np.argsort(-values[best], kind="stable")]
    return TokenLogprob(token, float(values[token]), tuple((int(each), float(values[each])) for each in best))
