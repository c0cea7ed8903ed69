"""Log-softmax and KL divergence of next-token distributions."""

from __future__ import annotations

import numpy as np

from .arrays import Doubles, Floats


def log_softmax(logits: Floats) -> Doubles:
    """Returns float64 log-probabilities over the last axis."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def divergence(log_p: Doubles, log_q: Doubles) -> Doubles:
    """Returns KL(p ‖ q) = Σ p (log p − log q) over the last axis, in nats."""
    return np.asarray((np.exp(log_p) * (log_p - log_q)).sum(-1))
