"""Agreement of a server with the reference along the common beginning of their answers, by log probabilities.

A server cannot be made to read the reference's answer as a bundle can. Where its own answer begins with the same
tokens, both have seen the same text, and their distributions can be compared: up to and with the first different token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import msgspec

from .token_agreement import StoredDistributions

Alternatives = dict[bytes, float]
"""Bytes of a token → its log probability."""


class ServedToken(msgspec.Struct, frozen=True):
    """A token of a server's answer, its log probability, and those of the likeliest ones."""

    content: bytes
    logprob: float
    top: Alternatives


class PrefixAgreement(msgspec.Struct, frozen=True):
    """`tokens` positions were compared. `kl` is the sum of KL(reference ‖ server) over what the server lists and one
    bucket for the rest, in nats; it is never above the true KL. `same` counts equal tokens, `difference` sums the
    absolute differences of their log probabilities."""

    tokens: int
    same: int
    kl: float
    difference: float

    def plus(self, other: PrefixAgreement) -> PrefixAgreement:
        """Returns the sums of both."""
        return PrefixAgreement(
            self.tokens + other.tokens,
            self.same + other.same,
            self.kl + other.kl,
            self.difference + other.difference,
        )


NOTHING = PrefixAgreement(0, 0, 0.0, 0.0)


def compare_prefix(
    stored: StoredDistributions, served: Sequence[ServedToken], bytes_of: Callable[[int], bytes]
) -> PrefixAgreement | None:
    """Compares a server's tokens with the reference's distributions; None if there are none to compare."""
    kl, difference, same, count = 0.0, 0.0, 0, 0
    for index, (token, found) in enumerate(zip(stored.tokens.tolist(), served, strict=False)):
        names = (bytes_of(id) for id in stored.ids[index].tolist())
        reference = dict(zip(names, stored.log_probs[index].tolist(), strict=True))
        kl, count = kl + _divergence(reference, found.top), count + 1
        if bytes_of(token) != found.content:
            break
        same, difference = same + 1, difference + abs(float(stored.log_likelihood[index]) - found.logprob)
    return PrefixAgreement(count, same, kl, difference) if count else None


def _divergence(reference: Alternatives, other: Alternatives) -> float:
    """Returns Σ p (log p − log q) over the tokens that both list, and one bucket for all others."""
    common = reference.keys() & other.keys()
    listed = sum(math.exp(reference[name]) * (reference[name] - other[name]) for name in common)
    rest = 1 - sum(math.exp(reference[name]) for name in common)
    other_rest = 1 - sum(math.exp(other[name]) for name in common)
    if rest > 1e-9 and other_rest > 1e-9:
        listed += rest * math.log(rest / other_rest)
    return max(listed, 0.0)
