"""Sampling against a naive implementation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qvl_runtime.answers.sampling import Bins, Sampling, drawn_place
from qvl_runtime.errors import EngineError, PromptError

logit_lists = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=40, unique=True)


def naive(logits: list[float], temperature: float, top_p: float, top_k: int) -> list[float]:
    """Token by token, likeliest first, until `top_k` of them or the mass `top_p` is reached."""
    weights = [math.exp((value - max(logits)) / temperature) for value in logits]
    order = sorted(range(len(logits)), key=lambda index: -logits[index])[: top_k or None]
    total = sum(weights[index] for index in order)
    kept, mass = [], 0.0
    for index in order:
        if mass >= top_p:
            break
        kept.append(index)
        mass += weights[index] / total
    share = sum(weights[index] for index in kept)
    return [weights[index] / share if index in kept else 0.0 for index in range(len(logits))]


@given(logit_lists, st.floats(0.05, 5), st.sampled_from([0.1, 0.37, 0.9, 1.0]), st.integers(0, 50))
def test_probabilities(logits: list[float], temperature: float, top_p: float, top_k: int) -> None:
    ours = Sampling(temperature, top_p, top_k).probabilities(np.array(logits, np.float32))
    theirs = np.array(naive(logits, temperature, top_p, top_k))
    assert ours.sum() == pytest.approx(1)
    if np.array_equal(ours > 0, theirs > 0):
        assert np.abs(ours - theirs).max() < 1e-9
    else:  # the last kept token lies on the border of the nucleus, where a rounding decides
        assert abs(ours[theirs > 0].sum() - 1) < 1e-6 or abs(theirs[ours > 0].sum() - 1) < 1e-6


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=40), st.integers(1, 50))
def test_the_likeliest_of_equals_come_first(logits: list[int], top_k: int) -> None:
    """With ties at the border the lower ids are kept, as sorting the whole vocabulary would."""
    kept = np.flatnonzero(Sampling(1.0, top_k=top_k).probabilities(np.array(logits, np.float32)))
    assert kept.tolist() == sorted(sorted(range(len(logits)), key=lambda index: -logits[index])[:top_k])


@given(logit_lists, st.sampled_from([1e-320, 1e-30, 1e-3]))
def test_a_tiny_temperature_is_nearly_greedy(logits: list[float], temperature: float) -> None:
    chances = Sampling(temperature).probabilities(np.array(logits, np.float32))
    assert np.isfinite(chances).all()
    assert max(logits) - logits[int(np.argmax(chances))] <= temperature  # logits closer than that are a tie


@given(logit_lists, st.floats(0.05, 5), st.sampled_from([0.1, 0.9, 1.0]), st.integers(0, 50), st.floats(0, 0.5))
def test_draws_are_those_of_numpy(
    logits: list[float], temperature: float, top_p: float, top_k: int, min_p: float
) -> None:
    """A seed draws the same tokens as a choice from the whole vocabulary would."""
    sampling, scores = Sampling(temperature, top_p, top_k, 5, min_p), np.array(logits, np.float32)
    rng, pick = np.random.default_rng(5), sampling.picker()
    expected = [int(rng.choice(len(scores), p=sampling.probabilities(scores))) for _ in range(5)]
    assert [pick(scores) for _ in range(5)] == expected


def plain(logits: np.ndarray, rng: np.random.Generator, sampling: Sampling) -> int:
    """The whole vocabulary sorted, its softmax, and one draw in the order of ids."""
    order = np.argsort(-logits, kind="stable")[: sampling.top_k or None]
    chances = np.exp((logits[order].astype(np.float64) - logits.max()) / sampling.temperature)
    chances /= chances.sum()
    inside = (np.cumsum(chances) - chances < sampling.top_p) & (chances >= sampling.min_p * chances[0])
    tokens = np.sort(order[inside])
    mass = np.cumsum(np.exp((logits[tokens].astype(np.float64) - logits.max()) / sampling.temperature))
    return int(tokens[np.searchsorted(mass / mass[-1], rng.random(), side="right")])


@pytest.mark.parametrize("size", [255, 256, 257, 3000, 151_936])
@pytest.mark.parametrize(
    "options",
    [{}, {"top_p": 0.9}, {"top_p": 0.3}, {"top_k": 1}, {"top_k": 50}, {"top_k": 590}, {"min_p": 0.05}]
    + [{"top_k": 200, "top_p": 0.8, "min_p": 0.01}, {"top_p": 0.999, "temperature": 1.7}],
    ids=str,
)
@pytest.mark.parametrize("kind", ["flat", "peaked", "ties", "a few allowed"])
def test_a_seed_draws_what_the_plain_formula_draws(size: int, options: dict[str, Any], kind: str) -> None:
    draw = np.random.default_rng(size)
    rows = draw.standard_normal((4, size)).astype(np.float32) * (0.02 if kind == "flat" else 4)
    if kind == "ties":
        rows = np.round(rows)
    if kind == "a few allowed":
        rows[:, draw.permutation(size)[5:]] = -np.inf
    sampling = Sampling(**{"temperature": 1.0, "seed": 3, **options})
    pick, rng = sampling.picker(), np.random.default_rng(3)
    assert [pick(row) for row in rows] == [plain(row, rng, sampling) for row in rows]


@pytest.mark.parametrize("kind", ["flat", "equal", "tail"])
@pytest.mark.parametrize("top_p", [0.25, 0.5, 0.9])
def test_too_many_tokens_to_sort(kind: str, top_p: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are counted by bins instead; where the border lies on a sum, as between equal tokens, all are sorted."""
    draw, size = np.random.default_rng(1), 1 << 16
    logits = {
        "flat": draw.standard_normal(size) * 0.02,
        "equal": np.zeros(size),
        "tail": np.r_[np.full(8, 5.0), draw.standard_normal(size - 8) * 0.3],
    }[kind].astype(np.float32)
    cuts = list[bool]()
    monkeypatch.setattr(Bins, "cut", lambda *a, cut=Bins.cut: cuts.append(cut(*a)) or cuts[-1])
    pick, rng = Sampling(1.0, top_p, seed=3).picker(), np.random.default_rng(3)
    assert [pick(logits) for _ in range(5)] == [plain(logits, rng, Sampling(1.0, top_p)) for _ in range(5)]
    assert cuts == [kind != "equal" or not (size * top_p).is_integer()] * 5


@pytest.mark.parametrize("temperature", [1e-7, 1e-32, 1e-36, 1e-40, 1e-320])
@pytest.mark.parametrize("level", [0.0, 1.0, -20.0, 1e-30])
def test_a_temperature_too_low_for_bins(temperature: float, level: float) -> None:
    """Many likeliest tokens of one logit, with none so near that it could be drawn."""
    logits = np.full(1 << 17, level, np.float32)
    logits[::3] = level - 1
    pick, rng = Sampling(temperature, 0.5, seed=3).picker(), np.random.default_rng(3)
    with np.errstate(all="raise", under="ignore"):
        drawn = [pick(logits) for _ in range(3)]
    with np.errstate(over="ignore"):
        assert drawn == [plain(logits, rng, Sampling(temperature, 0.5)) for _ in range(3)]


@given(st.integers(1, 3000), st.integers(0, 2**32 - 1), st.booleans())
def test_a_place_by_parts_is_that_of_the_sum_over_all(count: int, seed: int, whole: bool) -> None:
    """Also if the chance is a sum itself, or nothing has any mass at the place."""
    rng = np.random.default_rng(seed)
    mass = np.exp(rng.standard_normal(count) * 5) * rng.integers(0, 2, count)
    mass[rng.integers(count)] = 1.0
    sums = np.cumsum(mass) / np.cumsum(mass)[-1]
    chance = float(rng.choice(sums[sums < 1], 1)[0]) if whole and (sums < 1).any() else rng.random()
    assert drawn_place(mass.copy(), chance) == np.searchsorted(sums, chance, side="right")


def test_draws_follow_the_probabilities() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    pick = Sampling(1.0, seed=1).picker()
    drawn = np.bincount([pick(logits) for _ in range(4000)], minlength=4) / 4000
    assert np.abs(drawn - [0.5, 0.3, 0.15, 0.05]).max() < 0.03


def test_a_seed_repeats_and_greedy_needs_none() -> None:
    logits = np.random.default_rng(0).standard_normal((20, 50)).astype(np.float32)
    first, again, other = (
        [pick(row) for row in logits] for pick in (Sampling(1.5, 0.9, 20, seed).picker() for seed in (7, 7, 8))
    )
    assert first == again != other
    assert [Sampling().picker()(row) for row in logits] == logits.argmax(1).tolist()


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_p": 0},
        {"top_p": 1.01},
        {"top_p": math.nan},
        {"top_k": -1},
        {"seed": -1},
        {"temperature": "hot"},
        {"top_k": 1.5},
        {"seed": "x"},
    ],
    ids=str,
)
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(PromptError, match=f"{next(iter(options))} must be "):
        Sampling(**{"temperature": 1.0, **options})


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_an_error(temperature: float, bad: float) -> None:
    logits = np.array([0.5, bad, 1.0], np.float32)
    with pytest.raises(EngineError, match="logits are not finite"):
        Sampling(temperature).picker()(logits)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_tokens_that_are_ruled_out_are_not_chosen(temperature: float) -> None:
    assert Sampling(temperature).picker()(np.array([-np.inf, 1.0, -np.inf], np.float32)) == 1
