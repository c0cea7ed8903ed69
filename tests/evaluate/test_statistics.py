"""Statistics: coverage by simulation, tests against enumeration."""

from __future__ import annotations

import tracemalloc
from itertools import product

import numpy as np
import pytest

from qvl_export.evaluate.analysis.statistics import (
    MIN_ITEMS,
    RESAMPLES,
    Interval,
    PairedScores,
    bootstrap,
    items_needed,
    mcnemar,
    percentile_interval,
    permutation_test,
)


def pages(rng: np.random.Generator, items: int, loss: float = 0.0) -> PairedScores:
    """Character errors of two readers on pages of uneven length and difficulty; `loss` raises the second's rate."""
    lengths = rng.integers(20, 200, items).astype(float)
    hard = rng.beta(0.5, 6, items)
    errors = np.stack([rng.binomial(lengths.astype(int), np.minimum(hard + extra, 1)) for extra in (0, loss)])
    return PairedScores(errors.astype(float), np.stack([lengths, lengths]))


def test_under_no_difference_the_interval_excludes_zero_in_five_percent() -> None:
    rng = np.random.default_rng(1)
    wrong = sum(percentile_interval(bootstrap(pages(rng, 120), seed, 500)).excludes_zero() for seed in range(500))
    assert 0.03 <= wrong / 500 <= 0.07


def test_under_no_difference_the_permutation_test_rejects_in_five_percent() -> None:
    rng = np.random.default_rng(2)
    wrong = sum(permutation_test(pages(rng, 120), seed, 500) < 0.05 for seed in range(500))
    assert 0.03 <= wrong / 500 <= 0.07


def test_items_needed_find_a_point_in_four_of_five_sets() -> None:
    rng = np.random.default_rng(3)
    needed = items_needed(pages(rng, 4000, loss=0.01))
    found = sum(percentile_interval(bootstrap(pages(rng, needed, loss=0.01), seed, 500)).low > 0 for seed in range(200))
    assert 0.7 <= found / 200 <= 0.9


def test_resampling_takes_both_results_of_an_item_together() -> None:
    errors = np.random.default_rng(4).integers(0, 9, (1, 50)).astype(float)
    pairs = PairedScores(np.concatenate([errors, errors + 1]), np.full((2, 50), 10.0))
    found = percentile_interval(bootstrap(pairs))
    assert found.low == pytest.approx(0.1) and found.high == pytest.approx(0.1)


def test_the_same_seed_gives_the_same_interval() -> None:
    pairs = pages(np.random.default_rng(5), 60)
    assert percentile_interval(bootstrap(pairs)) == percentile_interval(bootstrap(pairs))


def test_mcnemar_is_the_binomial_tail() -> None:
    for only_reference, only_other in product(range(6), range(6)):
        n = only_reference + only_other
        outcomes = [sum(bits) for bits in product((0, 1), repeat=n)]
        expected = sum(abs(k - n / 2) >= abs(only_other - n / 2) for k in outcomes) / len(outcomes)
        assert mcnemar(only_reference, only_other) == pytest.approx(expected)


def test_the_permutation_test_is_the_share_of_all_swaps() -> None:
    first, second = np.array([3.0, 0, 1, 5, 2, 2, 0, 1]), np.array([4.0, 1, 1, 9, 2, 4, 1, 0])
    pairs = PairedScores(np.stack([first, second]), np.full((2, 8), 10.0))
    swaps = [
        abs(sum(s * d for s, d in zip(signs, second - first, strict=True))) for signs in product((1, -1), repeat=8)
    ]
    expected = sum(total >= abs((second - first).sum()) for total in swaps) / len(swaps)
    assert permutation_test(pairs, resamples=20000) == pytest.approx(expected, abs=0.01)


def test_a_few_items_that_differ_alike_are_not_significant() -> None:
    """Four worse items and none better: the bootstrap's lower bound is above zero, chance is one in eight."""
    worse = np.zeros((2, 200))
    worse[1, :4] = 1
    pairs = PairedScores(worse, np.ones((2, 200)))
    assert permutation_test(pairs) == pytest.approx(0.125, abs=0.03)


def test_nothing_counted_is_a_rate_of_zero() -> None:
    pairs = PairedScores(np.zeros((2, 3)), np.zeros((2, 3)))
    assert pairs.rates() == (0, 0) and pairs.difference() == 0 and items_needed(pairs) == 1


@pytest.mark.parametrize(
    ("low", "high", "excluded"),
    [(0.1, 0.2, True), (-0.2, -0.1, True), (-0.1, 0.1, False), (0.0, 0.1, False), (-0.1, 0.0, False), (0, 0, False)],
)
def test_zero_at_a_bound_is_within(low: float, high: float, excluded: bool) -> None:
    assert Interval(low, high).excludes_zero() is excluded


def test_an_interval_leaves_out_as_much_at_both_ends() -> None:
    found = percentile_interval(np.linspace(0, 1, 1001)), percentile_interval(np.linspace(0, 1, 1001), 0.5)
    assert [(each.low, each.high) for each in found] == [pytest.approx((0.025, 0.975)), pytest.approx((0.25, 0.75))]


def test_a_rate_is_of_sums_and_nothing_counted_by_one_is_zero() -> None:
    pairs = PairedScores(np.array([[1.0, 2.0], [3.0, 1.0]]), np.array([[10.0, 30.0], [6.0, 2.0]]))
    assert pairs.items == 2 and pairs.rates() == (3 / 40, 4 / 8) and pairs.difference() == 4 / 8 - 3 / 40
    assert PairedScores(np.ones((2, 1)), np.array([[0.0], [4.0]])).rates() == (0, 0.25)


@pytest.mark.parametrize(("items", "resamples"), [(50, RESAMPLES), (40_000, 20), (300_000, 2)])
def test_as_many_are_drawn_however_many_items_there_are(items: int, resamples: int) -> None:
    pairs = PairedScores(np.stack([np.zeros(items), np.arange(items) % 2]), np.ones((2, items)))
    assert len(bootstrap(pairs, resamples=resamples)) == resamples
    assert permutation_test(pairs, resamples=resamples) == 1 / (resamples + 1), "the smallest possible p-value"


def test_resampling_has_bounded_memory() -> None:
    """Four million numbers, of which a quarter of a million are held at a time."""
    pairs = PairedScores(np.ones((2, 20_000)), np.ones((2, 20_000)))
    tracemalloc.start()
    bootstrap(pairs, resamples=200), permutation_test(pairs, resamples=200)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


@pytest.mark.parametrize("place", [0, 4])
def test_every_item_is_drawn_as_often(place: int) -> None:
    """That one item alone differs."""
    errors = np.zeros((2, 5))
    errors[1, place] = 1
    pairs = PairedScores(errors, np.ones((2, 5)))
    assert bootstrap(pairs).mean() == pytest.approx(pairs.difference(), abs=0.02)


def test_items_are_swapped_with_their_denominators() -> None:
    """Both bundles' fields of an item differ in number too, as in F1."""
    right = np.array([[2.0, 4, 0, 6, 1, 3], [1.0, 5, 2, 2, 0, 1]])
    counted = np.array([[4.0, 6, 3, 8, 2, 5], [5.0, 9, 3, 4, 1, 7]])
    drawn = []
    for swaps in product((False, True), repeat=6):
        a, b = (np.where(swaps, part[::-1], part).sum(1) for part in (right, counted))
        drawn.append(abs(a[1] / b[1] - a[0] / b[0]))
    expected = np.mean(np.array(drawn) >= drawn[0] - 1e-12)
    assert 0.1 < expected < 0.9 and permutation_test(PairedScores(right, counted), resamples=20000) == pytest.approx(
        expected, abs=0.01
    )


def test_one_item_is_never_significant() -> None:
    for first, second in product((0.1, 0.3, 0.7, 1 / 3), repeat=2):
        assert (
            permutation_test(PairedScores(np.array([[first], [second]]), np.array([[3.0], [7.0]])), resamples=50) == 1
        )


def test_the_items_needed_follow_from_the_spread_of_the_difference() -> None:
    pairs = PairedScores(np.array([[0.0] * 10, [1.0, 0.0] * 5]), np.full((2, 10), 10.0))
    assert [items_needed(pairs, loss) for loss in (0.01, 0.02, 0.05)] == [197, 50, 8]
    lengths = np.array([10.0, 20, 70])
    assert items_needed(PairedScores(np.stack([lengths * 0.1, lengths * 0.5]), np.stack([lengths] * 2))) == 1, (
        "no spread"
    )
    uneven = pages(np.random.default_rng(6), 400, loss=0.02)
    uneven = PairedScores(uneven.numerators, uneven.denominators * np.array([[1.0], [1.5]]))
    spread = bootstrap(uneven, resamples=4000).std() * 20  # of one item, from that of 400
    assert items_needed(uneven) == pytest.approx((2.801585 * spread / 0.01) ** 2, rel=0.1)


def test_the_interval_of_few_items_is_too_short() -> None:
    """Normal differences without a mean: of `MIN_ITEMS` items the bootstrap is near its level, of four far from it."""
    rng, missed = np.random.default_rng(0), {}
    for items in (4, MIN_ITEMS):
        drawn = (PairedScores(rng.standard_normal((2, items)), np.ones((2, items))) for _ in range(400))
        missed[items] = sum(
            percentile_interval(bootstrap(each, seed, 500)).excludes_zero() for seed, each in enumerate(drawn)
        )
    assert missed[MIN_ITEMS] / 400 < 0.1 < 0.15 < missed[4] / 400
