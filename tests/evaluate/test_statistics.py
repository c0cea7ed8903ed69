"""Statistics: coverage by simulation, tests against enumeration."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from qvl_export.evaluate.analysis.statistics import Paired, interval, items_needed, mcnemar, resampled, swap_test


def pages(rng: np.random.Generator, items: int, loss: float = 0.0) -> Paired:
    """Character errors of two readers on pages of uneven length and difficulty; `loss` raises the second's rate."""
    lengths = rng.integers(20, 200, items).astype(float)
    hard = rng.beta(0.5, 6, items)
    errors = np.stack([rng.binomial(lengths.astype(int), np.minimum(hard + extra, 1)) for extra in (0, loss)])
    return Paired(errors.astype(float), np.stack([lengths, lengths]))


def test_under_no_difference_the_interval_excludes_zero_in_five_percent() -> None:
    rng = np.random.default_rng(1)
    wrong = sum(interval(resampled(pages(rng, 120), seed, 500)).excludes_zero() for seed in range(500))
    assert 0.03 <= wrong / 500 <= 0.07


def test_under_no_difference_the_swap_test_rejects_in_five_percent() -> None:
    rng = np.random.default_rng(2)
    wrong = sum(swap_test(pages(rng, 120), seed, 500) < 0.05 for seed in range(500))
    assert 0.03 <= wrong / 500 <= 0.07


def test_the_items_said_to_be_needed_find_a_point_in_four_of_five_sets() -> None:
    rng = np.random.default_rng(3)
    needed = items_needed(pages(rng, 4000, loss=0.01))
    found = sum(interval(resampled(pages(rng, needed, loss=0.01), seed, 500)).low > 0 for seed in range(200))
    assert 0.7 <= found / 200 <= 0.9


def test_resampling_takes_both_results_of_an_item_together() -> None:
    errors = np.random.default_rng(4).integers(0, 9, (1, 50)).astype(float)
    pairs = Paired(np.concatenate([errors, errors + 1]), np.full((2, 50), 10.0))
    found = interval(resampled(pairs))
    assert found.low == pytest.approx(0.1) and found.high == pytest.approx(0.1)


def test_the_same_seed_gives_the_same_interval() -> None:
    pairs = pages(np.random.default_rng(5), 60)
    assert interval(resampled(pairs)) == interval(resampled(pairs))


def test_mcnemar_is_the_binomial_tail() -> None:
    for only_reference, only_other in product(range(6), range(6)):
        n = only_reference + only_other
        outcomes = [sum(bits) for bits in product((0, 1), repeat=n)]
        expected = sum(abs(k - n / 2) >= abs(only_other - n / 2) for k in outcomes) / len(outcomes)
        assert mcnemar(only_reference, only_other) == pytest.approx(expected)


def test_swap_test_is_the_share_of_all_swaps() -> None:
    first, second = np.array([3.0, 0, 1, 5, 2, 2, 0, 1]), np.array([4.0, 1, 1, 9, 2, 4, 1, 0])
    pairs = Paired(np.stack([first, second]), np.full((2, 8), 10.0))
    swaps = [
        abs(sum(s * d for s, d in zip(signs, second - first, strict=True))) for signs in product((1, -1), repeat=8)
    ]
    expected = sum(total >= abs((second - first).sum()) for total in swaps) / len(swaps)
    assert swap_test(pairs, resamples=20000) == pytest.approx(expected, abs=0.01)


def test_a_few_items_that_differ_alike_are_no_finding() -> None:
    """Four worse items and none better: the bootstrap's lower bound is above zero, chance is one in eight."""
    worse = np.zeros((2, 200))
    worse[1, :4] = 1
    pairs = Paired(worse, np.ones((2, 200)))
    assert swap_test(pairs) == pytest.approx(0.125, abs=0.03)


def test_nothing_counted_is_a_rate_of_zero() -> None:
    pairs = Paired(np.zeros((2, 3)), np.zeros((2, 3)))
    assert pairs.rates() == (0, 0) and pairs.difference() == 0 and items_needed(pairs) == 1
