"""What the precision of a linear costs: the rows of the table that `sensitivity` measures and `search` chooses from."""

from __future__ import annotations

import msgspec

from ...qtensor import Layout


class Sensitivity(msgspec.Struct, frozen=True):
    """A linear [N, K] and what each precision of it costs: mean KL divergence of the answers' tokens, in nats.

    `forms` are those it had; a precision is missing under which the linear stays float.
    """

    name: str
    shape: tuple[int, int]
    kl: dict[str, float]
    forms: dict[str, Layout] = {}
