"""Decides which differences are significant: one rule for the verdict, the headline and the colors of the page.

A difference is significant if its interval excludes zero and the permutation test rejects, at 5 % over all figures of a
bundle together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from ..metrics.scores import primary_metric
from .results import Comparison
from .statistics import CONFIDENCE, Interval

Direction = Literal["", "worse", "better"]
PRIMARY_SHARE = 0.8
"""Share of the false-alarm risk that the primary metrics have, if there are secondary metrics."""


def significance_levels(primary: int, secondary: int) -> tuple[float, float]:
    """Returns the p-value thresholds of primary and secondary metrics, given the number of each.

    The false-alarm rate of a set is at most 5 % in total: the primary metrics share four fifths of it, the secondary
    ones the rest (weighted Bonferroni).
    """
    share = PRIMARY_SHARE if secondary else 1.0
    return share * (1 - CONFIDENCE) / max(primary, 1), (1 - share) * (1 - CONFIDENCE) / max(secondary, 1)


def direction(p_value: float, loss: Interval, threshold: float) -> Direction:
    """Returns the direction of a significant difference, otherwise an empty string."""
    if p_value > threshold or not loss.excludes_zero():
        return ""
    return "worse" if loss.low > 0 else "better"


def with_directions(scores: Sequence[Comparison]) -> list[Comparison]:
    """Returns the comparisons of all metrics with their direction."""
    is_primary = [score.metric == primary_metric(score.task) for score in scores]
    levels = significance_levels(sum(is_primary), len(scores) - sum(is_primary))
    return [_with_direction(score, levels[not primary]) for score, primary in zip(scores, is_primary, strict=True)]


def groups_with_directions(groups: Sequence[Comparison], scores: Sequence[Comparison]) -> list[Comparison]:
    """Returns groups with their direction, which is dropped unless the primary metric of their task has the same."""
    tasks = {score.task: score.direction for score in scores if score.metric == primary_metric(score.task)}
    found = [_with_direction(group, (1 - CONFIDENCE) / len(groups)) for group in groups]
    return [
        group if group.direction == tasks.get(group.task) else msgspec.structs.replace(group, direction="")
        for group in found
    ]


def _with_direction(score: Comparison, threshold: float) -> Comparison:
    return msgspec.structs.replace(score, direction=direction(score.p_value, score.loss(), threshold))
