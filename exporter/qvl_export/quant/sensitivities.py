"""What the precision of a linear costs: the rows of the table that `sensitivity` measures and `search` chooses from."""

from __future__ import annotations

import msgspec


class Sensitivity(msgspec.Struct, frozen=True):
    """A linear [N, K] and what each precision of it costs: mean KL divergence of the answers' tokens, in nats."""

    name: str
    shape: tuple[int, int]
    kl: dict[str, float]
