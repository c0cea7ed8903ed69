"""What the precisions of single linears are to keep."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limit:
    """At most so much divergence of the answers (mean KL, nats a token), or so many bytes of bundle; one of them."""

    max_kl: float | None = None
    max_size: int | None = None
