"""Agreement of two models along one answer: next-token distributions, teacher-forced on the reference's own tokens.

The reference's distributions are stored as their TOP most likely tokens and one bucket for all others: 2 KB per token
for any vocabulary. KL over these buckets is never above the true KL; it is exact if the vocabulary has at most TOP
tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from ...common.atomic_output import atomic_file
from ...common.kl import Floats, log_softmax

TOP = 256
ROWS = 32
"""Tokens whose full distribution is held in float64 at a time."""


class Agreement(msgspec.Struct, frozen=True):
    """Along one answer of the reference: KL(reference ‖ other) in nats per token, the number of positions where both
    models have the same top token, summed log-likelihoods of the answer under both, and the first position where the
    other model's top token differs from the answer."""

    kl: list[float]
    same_top: int
    log_likelihood_reference: float
    log_likelihood: float
    first_divergence: int | None


@dataclass(frozen=True)
class Kept:
    """The reference's distributions along its `tokens` [T]: the TOP ids [T, K] and their log-probabilities, and the
    log-probabilities of all other tokens together and of the token itself [T]."""

    tokens: npt.NDArray[np.int32]
    ids: npt.NDArray[np.int32]
    log_probs: npt.NDArray[np.float32]
    log_rest: npt.NDArray[np.float32]
    log_likelihood: npt.NDArray[np.float32]

    def save(self, path: Path) -> None:
        """Writes the file atomically."""
        parts: dict[str, Any] = vars(self)
        with atomic_file(path) as file:
            np.savez(file, **parts)

    @staticmethod
    def load(path: Path) -> Kept:
        with np.load(path) as parts:
            return Kept(**dict(parts))


def keep(logits: npt.NDArray[np.float32], tokens: list[int], top: int = TOP) -> Kept:
    """Compresses the reference's logits [T, V] along its own `tokens`.

    Raises ArithmeticError if logits are not finite.
    """
    ids, log_probs, log_rest, likelihood = [], [], [], []
    for start in range(0, len(tokens), ROWS):
        log_p = _log_probs(logits[start : start + ROWS])
        count = min(top, log_p.shape[-1])
        chosen = np.argpartition(-log_p, count - 1, axis=-1)[:, :count]
        ids.append(chosen.astype(np.int32))
        log_probs.append(np.take_along_axis(log_p, chosen, -1).astype(np.float32))
        log_rest.append(_log_rest(log_p, chosen).astype(np.float32))
        likelihood.append(_at(log_p, tokens[start : start + ROWS]).astype(np.float32))
    parts: list[Any] = [np.concatenate(pieces) for pieces in (ids, log_probs, log_rest, likelihood)]
    return Kept(np.array(tokens, np.int32), *parts)


def agreement(kept: Kept, logits: npt.NDArray[np.float32]) -> Agreement:
    """Compares another model's logits [T, V] along the same tokens with the reference; raises as `keep` does."""
    tokens = kept.tokens.tolist()
    divergences, tops, likelihood = [], [], []
    for start in range(0, len(tokens), ROWS):
        rows = slice(start, start + ROWS)
        log_q = _log_probs(logits[rows])
        divergences.append(_divergence(kept, rows, log_q))
        tops.append(log_q.argmax(-1))
        likelihood.append(_at(log_q, tokens[rows]))
    top = np.concatenate(tops)
    favourite = np.take_along_axis(kept.ids, kept.log_probs.argmax(-1)[:, None], -1)[:, 0]
    unlike = np.flatnonzero(top != kept.tokens)
    return Agreement(
        kl=[float(f"{value:.4g}") for value in np.concatenate(divergences)],
        same_top=int((top == favourite).sum()),
        log_likelihood_reference=float(kept.log_likelihood.sum(dtype=np.float64)),
        log_likelihood=float(np.concatenate(likelihood).sum()),
        first_divergence=int(unlike[0]) if len(unlike) else None,
    )


def _log_probs(logits: npt.NDArray[np.float32]) -> Floats:
    if not np.isfinite(logits).all():
        raise ArithmeticError("logits along the reference's answer are not finite")
    return log_softmax(logits)


def _divergence(kept: Kept, rows: slice, log_q: Floats) -> Floats:
    """Returns Σ p (log p − log q) over the kept tokens and the bucket of all others, in nats."""
    ids, log_p = kept.ids[rows].astype(np.int64), kept.log_probs[rows].astype(np.float64)
    kl = (np.exp(log_p) * (log_p - np.take_along_axis(log_q, ids, -1))).sum(-1)
    rest = kept.log_rest[rows].astype(np.float64)
    other = _log_rest(log_q, ids)
    there = np.isfinite(rest) & np.isfinite(other)
    kl[there] += np.exp(rest[there]) * (rest[there] - other[there])
    return np.asarray(np.maximum(kl, 0.0))


def _log_rest(log_p: Floats, chosen: npt.NDArray[np.integer]) -> Floats:
    """Returns the log of the probability outside `chosen` [T, K]; −inf if nothing is outside."""
    outside = np.exp(log_p)
    np.put_along_axis(outside, chosen, 0.0, -1)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(outside.sum(-1)))


def _at(log_p: Floats, tokens: list[int]) -> Floats:
    return np.asarray(log_p[np.arange(len(tokens)), tokens])
