"""Log-softmax and KL divergence of next-token distributions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def log_softmax(logits: npt.NDArray[np.float32]) -> Floats:
    """Returns float64 log-probabilities over the last axis."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def divergence(log_p: Floats, log_q: Floats) -> Floats:
    """Returns KL(p ‖ q) = Σ p (log p − log q) over the last axis, in nats."""
    return np.asarray((np.exp(log_p) * (log_p - log_q)).sum(-1))
