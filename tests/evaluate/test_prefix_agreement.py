"""Agreement with a server along the common beginning of two answers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qvl_export.evaluate.answers.prefix_agreement import NOTHING, PrefixAgreement, ServedToken, compare_prefix
from qvl_export.evaluate.answers.token_agreement import compress_distributions

P = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]])
Q = np.array([[0.6, 0.3, 0.1], [0.5, 0.4, 0.1], [0.3, 0.3, 0.4]])


def letter(token: int) -> bytes:
    return b"abc"[token : token + 1]


def served(row: int, token: int, listed: int = 3) -> ServedToken:
    likeliest = sorted(range(3), key=lambda each: -Q[row, each])[:listed]
    top = {letter(each): math.log(Q[row, each]) for each in {*likeliest, token}}
    return ServedToken(letter(token), math.log(Q[row, token]), top)


def test_distributions_are_compared_up_to_the_first_different_token() -> None:
    stored = compress_distributions(np.log(P).astype(np.float32), [0, 1, 2])
    found = compare_prefix(stored, [served(0, 0), served(1, 0), served(2, 2)], letter)
    assert found is not None and (found.tokens, found.same) == (2, 1)
    assert found.kl == pytest.approx((P[:2] * np.log(P[:2] / Q[:2])).sum(), abs=1e-6)
    assert found.difference == pytest.approx(abs(math.log(0.7 / 0.6)), abs=1e-6)


def test_what_a_server_does_not_list_is_one_bucket() -> None:
    stored = compress_distributions(np.log(P).astype(np.float32), [0, 1, 2])
    found = compare_prefix(stored, [served(0, 0, listed=1)], letter)
    bucket = 0.7 * math.log(0.7 / 0.6) + 0.3 * math.log(0.3 / 0.4)
    assert found is not None and found.kl == pytest.approx(bucket, abs=1e-6)
    assert bucket < (P[0] * np.log(P[0] / Q[0])).sum()


def test_sums_are_added() -> None:
    one = PrefixAgreement(2, 1, 0.5, 0.25)
    assert NOTHING.plus(one).plus(one) == PrefixAgreement(4, 2, 1.0, 0.5)
    stored = compress_distributions(np.log(P).astype(np.float32), [0, 1, 2])
    assert compare_prefix(stored, [], letter) is None
