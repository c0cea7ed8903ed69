"""Log-softmax and KL divergence of next-token distributions."""

from __future__ import annotations

import numpy as np

from qvl_runtime.answers.logprobs import log_softmax

from .arrays import Doubles

__all__ = ["divergence", "log_softmax"]


def divergence(log_p: Doubles, log_q: Doubles) -> Doubles:
    """Returns KL(p ‖ q) = Σ p (log p − log q) over the last axis, in nats."""
    return np.asarray((np.exp(log_p) * (log_p - log_q)).sum(-1))
