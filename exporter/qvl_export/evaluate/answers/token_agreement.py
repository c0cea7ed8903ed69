"""Agreement of two models token by token: next-token distributions, teacher-forced on the reference's own answer.

The reference's distributions are stored as their STORED_TOKENS most likely tokens and one bucket for all others: 2 KB
per token for any vocabulary. KL over these buckets is never above the true KL. It is exact if the vocabulary has at
most STORED_TOKENS tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from ...common.arrays import Doubles, Floats
from ...common.atomic_output import atomic_file
from ...common.kl import log_softmax

STORED_TOKENS = 256
ROWS_AT_A_TIME = 32
"""Number of tokens whose full distribution is in memory as float64 at a time."""


class Agreement(msgspec.Struct, frozen=True):
    """The agreement of another model with the reference along one answer of the reference.

    `kl` is KL(reference ‖ other) per token, in nats. `same_top` is the number of positions where both models have the
    same top token. The log-likelihoods of the answer are summed. `first_divergence` is the first position where the
    other model's top token differs from the answer.
    """

    kl: list[float]
    same_top: int
    log_likelihood_reference: float
    log_likelihood: float
    first_divergence: int | None


@dataclass(frozen=True)
class StoredDistributions:
    """The reference's distributions along the `tokens` [T] of its answer.

    `ids` [T, K] are the K most likely tokens, `log_probs` [T, K] their log-probabilities. `log_rest` [T] is the
    log-probability of all other tokens together, `log_likelihood` [T] that of the answer's token.
    """

    tokens: npt.NDArray[np.int32]
    ids: npt.NDArray[np.int32]
    log_probs: Floats
    log_rest: Floats
    log_likelihood: Floats

    def save(self, path: Path) -> None:
        """Writes the file atomically."""
        parts: dict[str, Any] = vars(self)
        with atomic_file(path) as file:
            np.savez(file, **parts)

    @staticmethod
    def load(path: Path) -> StoredDistributions:
        with np.load(path) as parts:
            return StoredDistributions(**dict(parts))


def compress_distributions(logits: Floats, tokens: list[int], top: int = STORED_TOKENS) -> StoredDistributions:
    """Compresses the reference's logits [T, V] along its own `tokens`.

    Raises ArithmeticError if logits are not finite.
    """
    ids, log_probs, log_rest, likelihood = [], [], [], []
    for start in range(0, len(tokens), ROWS_AT_A_TIME):
        log_p = _log_probs(logits[start : start + ROWS_AT_A_TIME])
        count = min(top, log_p.shape[-1])
        chosen = np.argpartition(-log_p, count - 1, axis=-1)[:, :count]
        ids.append(chosen.astype(np.int32))
        log_probs.append(np.take_along_axis(log_p, chosen, -1).astype(np.float32))
        log_rest.append(_log_rest(log_p, chosen).astype(np.float32))
        likelihood.append(_log_probs_of(log_p, tokens[start : start + ROWS_AT_A_TIME]).astype(np.float32))
    parts: list[Any] = [np.concatenate(pieces) for pieces in (ids, log_probs, log_rest, likelihood)]
    return StoredDistributions(np.array(tokens, np.int32), *parts)


def compare_distributions(stored: StoredDistributions, logits: Floats) -> Agreement:
    """Compares another model's logits [T, V] along the same tokens with the reference.

    Raises ArithmeticError if logits are not finite.
    """
    tokens = stored.tokens.tolist()
    divergences, tops, likelihood = [], [], []
    for start in range(0, len(tokens), ROWS_AT_A_TIME):
        rows = slice(start, start + ROWS_AT_A_TIME)
        log_q = _log_probs(logits[rows])
        divergences.append(_divergence(stored, rows, log_q))
        tops.append(log_q.argmax(-1))
        likelihood.append(_log_probs_of(log_q, tokens[rows]))
    top = np.concatenate(tops)
    likeliest = np.take_along_axis(stored.ids, stored.log_probs.argmax(-1)[:, None], -1)[:, 0]
    diverging = np.flatnonzero(top != stored.tokens)
    return Agreement(
        kl=[float(f"{value:.4g}") for value in np.concatenate(divergences)],
        same_top=int((top == likeliest).sum()),
        log_likelihood_reference=float(stored.log_likelihood.sum(dtype=np.float64)),
        log_likelihood=float(np.concatenate(likelihood).sum()),
        first_divergence=int(diverging[0]) if len(diverging) else None,
    )


def _log_probs(logits: Floats) -> Doubles:
    if not np.isfinite(logits).all():
        raise ArithmeticError("logits along the reference's answer are not finite")
    return log_softmax(logits)


def _divergence(stored: StoredDistributions, rows: slice, log_q: Doubles) -> Doubles:
    """Returns Σ p (log p − log q) over the stored tokens and the bucket of all others, in nats."""
    ids, log_p = stored.ids[rows].astype(np.int64), stored.log_probs[rows].astype(np.float64)
    kl = (np.exp(log_p) * (log_p - np.take_along_axis(log_q, ids, -1))).sum(-1)
    rest = stored.log_rest[rows].astype(np.float64)
    other = _log_rest(log_q, ids)
    finite = np.isfinite(rest) & np.isfinite(other)
    kl[finite] += np.exp(rest[finite]) * (rest[finite] - other[finite])
    return np.asarray(np.maximum(kl, 0.0))


def _log_rest(log_p: Doubles, chosen: npt.NDArray[np.integer]) -> Doubles:
    """Returns the log of the probability outside `chosen` [T, K]; −inf if nothing is outside."""
    outside = np.exp(log_p)
    np.put_along_axis(outside, chosen, 0.0, -1)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(outside.sum(-1)))


def _log_probs_of(log_p: Doubles, tokens: list[int]) -> Doubles:
    return np.asarray(log_p[np.arange(len(tokens)), tokens])
