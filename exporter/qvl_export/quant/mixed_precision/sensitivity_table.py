"""Rows of the sensitivity table, which `measure` fills and `search` chooses from."""

from __future__ import annotations

import msgspec

from ...qtensor import QuantFormat


class Sensitivity(msgspec.Struct, frozen=True):
    """A linear [N, K] and the cost of each precision: mean KL divergence over the answers' tokens, in nats.

    `formats` are the measured formats, `forms` in JSON; precisions under which the linear stays float are left out.
    """

    name: str
    shape: tuple[int, int]
    kl: dict[str, float]
    formats: dict[str, QuantFormat] = msgspec.field(default_factory=dict, name="forms")
