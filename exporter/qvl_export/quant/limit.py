"""The limit that a choice of precisions per linear must keep."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limit:
    """The largest divergence of the answers (mean KL, nats per token) or bundle size (bytes); exactly one is set."""

    max_kl: float | None = None
    max_size: int | None = None
