"""The verdict on a bundle, and its explanation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..metrics.scores import METRICS
from .results import Comparison, Verdict
from .significance import Direction, direction, significance_levels
from .statistics import (
    MIN_ITEMS,
    Interval,
    PairedScores,
    bootstrap,
    items_needed,
    percentile_interval,
    permutation_test,
)


@dataclass(frozen=True)
class PrimaryResult:
    """The primary metric of a task, item by item."""

    task: str
    metric: str
    pairs: PairedScores

    @property
    def too_few(self) -> bool:
        return self.pairs.items < MIN_ITEMS

    @property
    def name(self) -> str:
        return f"{METRICS[self.metric].title} in {self.task}"


@dataclass(frozen=True)
class _Judged:
    """A result with the bounds of its loss (positive is worse) and its direction."""

    result: PrimaryResult
    loss: Interval
    direction: Direction


def decide_verdict(
    results: Sequence[PrimaryResult], identical: bool, failed: int, scores: Sequence[Comparison] = ()
) -> Verdict:
    """Returns the verdict: a loss if the primary metric of any task shows one, or a secondary metric of `scores`.

    For tasks with too few items no bounds are reported. The permutation test, which is valid for any number of items,
    may still find a loss in them.
    """
    note = f" {_failed(failed)}" if failed else ""
    if identical and not failed:
        return Verdict("identical", "Every answer is identical to the reference's.")
    primary = {(result.task, result.metric) for result in results}
    secondary = [score for score in scores if (score.task, score.metric) not in primary]
    level, secondary_level = significance_levels(len(results), len(secondary))
    judged = [_judge(result, level) for result in results]
    losses, gains = ([each for each in judged if each.direction == wanted] for wanted in ("worse", "better"))
    if losses:
        return Verdict("loss", " ".join(_describe("Loss", each) for each in losses) + note)
    worse = [score for score in secondary if direction(score.p_value, score.loss(), secondary_level) == "worse"]
    if worse:
        return Verdict("loss", f"{' '.join(map(_describe_secondary, worse))} No primary metric shows a loss.{note}")
    few = _too_few([each.result for each in judged if each.result.too_few and not each.direction])
    enough = [each for each in judged if not each.result.too_few]
    if gains:
        no_loss = " No measurable loss." if enough else ""
        return Verdict("gain", " ".join(_describe("Gain", each) for each in gains) + no_loss + few + note)
    if not enough:
        return Verdict("too few items", (few or " Too few items: the reference answered none.")[1:] + note)
    widest = max(enough, key=lambda each: each.loss.high)
    return Verdict("no measurable loss", f"No measurable loss. {_upper_bound(widest)}{few}{note}")


def _judge(result: PrimaryResult, level: float) -> _Judged:
    bounds = percentile_interval(bootstrap(result.pairs))
    if not METRICS[result.metric].lower_is_better:
        bounds = Interval(-bounds.high, -bounds.low)
    significant = direction(permutation_test(result.pairs), bounds, level) if bounds.excludes_zero() else ""
    return _Judged(result, bounds, significant)


def _describe_secondary(score: Comparison) -> str:
    name, loss = f"{METRICS[score.metric].title} in {score.task}", score.loss()
    if score.too_few:
        return f"Loss of {100 * abs(score.difference):.1f} points of {name}, over {score.items} items."
    return f"Loss of {100 * loss.low:.1f} to {100 * loss.high:.1f} points of {name}."


def _describe(word: str, judged: _Judged) -> str:
    result = judged.result
    if result.too_few:
        points = 100 * abs(result.pairs.difference())
        return (
            f"{word} of {points:.1f} points of {result.name}, over {result.pairs.items} items: too few for an interval."
        )
    low, high = sorted((abs(judged.loss.low), abs(judged.loss.high)))
    return f"{word} of {100 * low:.1f} to {100 * high:.1f} points of {result.name}."


def _upper_bound(judged: _Judged) -> str:
    pairs, needed = judged.result.pairs, items_needed(judged.result.pairs)
    text = f"{judged.result.name} is at most {100 * max(judged.loss.high, 0):.1f} points worse"
    if needed > pairs.items:
        return f"{text}. Detecting a loss of one point takes {needed:,} items; the set has {pairs.items:,}."
    return f"{text}."


def _too_few(results: Sequence[PrimaryResult]) -> str:
    """Returns how many items tasks have and need: enough for a loss of one point, and at least MIN_ITEMS."""
    if not results:
        return ""
    parts = []
    for result in results:
        needed = items_needed(result.pairs)
        takes = (
            f"about {needed:,} needed to detect a loss of one point"
            if needed > MIN_ITEMS
            else f"at least {MIN_ITEMS} needed"
        )
        parts.append(f"{result.pairs.items} for {result.task} ({takes})")
    return f" Too few items: {'; '.join(parts)}."


def _failed(count: int) -> str:
    return (
        f"{count} items failed and count as empty answers."
        if count > 1
        else "1 item failed and counts as an empty answer."
    )
