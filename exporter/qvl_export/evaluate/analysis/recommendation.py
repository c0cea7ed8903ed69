"""Recommends which of the compared models to ship: the cheapest for which the set rules out a loss."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ...common.enumeration import joined
from ..metrics.scores import METRICS, TASKS
from .results import BundleReport, Comparison, Recommendation, Report, Speed
from .statistics import ENOUGH

TOLERATED = 0.02
"""A bundle is not recommended while it may lose more than two points of the first metric of a task."""
WORTH = 0.95
"""Highest cost (size, time and memory together) relative to the reference at which a bundle is worth shipping."""


def recommend(report: Report) -> Recommendation:
    """Recommends the cheapest bundle without loss, the reference if no bundle qualifies, or nothing if undecided.

    PyTorch as the reference is never recommended.
    """
    losing = [each for each in report.bundles if each.verdict.outcome == "loss"]
    failing = [each for each in report.bundles if each.failed and each not in losing]
    fit = [each for each in report.bundles if each not in (*losing, *failing) and not _doubts(each)]
    doubtful = [each for each in report.bundles if each not in (*losing, *failing, *fit)]
    best = min(fit, key=lambda each: _cost(each.speed, report.reference.speed), default=None)
    beside = [*_said(losing, "loses accuracy", "lose accuracy"), *_said(failing, "fails at items", "fail at items")]
    if best is not None and (_is_torch(report) or _cost(best.speed, report.reference.speed) <= WORTH):
        reason = f"{_evidence(best)}{_savings(best.speed, report)}"
        beside += [_rest(each) for each in doubtful]
        return Recommendation(best.title, best.path, _sentence(reason, beside))
    if doubtful:
        return Recommendation(None, "", _sentence(_doubts(doubtful[0]), beside))
    if _is_torch(report):
        return Recommendation(None, "", _sentence("no bundle matches PyTorch", beside))
    if best is not None:
        beside += _said(fit, "loses nothing but saves too little", "lose nothing but save too little")
    return Recommendation(
        report.reference.title, report.reference.path, _sentence("it is the reference itself", beside)
    )


def _is_torch(report: Report) -> bool:
    """Whether the reference was run by PyTorch, which cannot be shipped."""
    return not report.reference.family


def _first(bundle: BundleReport) -> list[Comparison]:
    return [found for found in bundle.scores if found.metric == TASKS[found.task][0]]


def _doubts(bundle: BundleReport) -> str:
    """Returns why the set cannot rule out a loss; empty if it can."""
    first = _first(bundle)
    if bundle.verdict.outcome == "identical":
        return ""
    few = [found.task for found in first if found.too_few]
    if few or not first:
        names = joined(few) if few else "any task"
        return f"the set has too few items of {names} to tell what {bundle.title} loses (at least {ENOUGH} of each)"
    widest = max(first, key=lambda found: found.loss().high)
    if widest.loss().high <= TOLERATED:
        return ""
    needed = math.ceil(widest.items * (widest.loss().high / TOLERATED) ** 2)
    return (
        f"{bundle.title} shows no loss, but one of {100 * widest.loss().high:.1f} points of "
        f"{METRICS[widest.metric].title} in {widest.task} is not ruled out (some {needed:,} items would tell)"
    )


def _rest(bundle: BundleReport) -> str:
    """Returns in a few words what an undecided bundle may lose."""
    first = _first(bundle)
    if not first or any(found.too_few for found in first):
        return f"{bundle.title} was asked too few items"
    widest = max(first, key=lambda found: found.loss().high)
    bound = f"{100 * widest.loss().high:.1f} points of {METRICS[widest.metric].title} in {widest.task}"
    return f"{bundle.title} may lose up to {bound}, which more items would tell"


def _evidence(bundle: BundleReport) -> str:
    if bundle.verdict.outcome == "identical":
        return "it answers exactly as the reference"
    widest = max(_first(bundle), key=lambda found: found.loss().high)
    bound = f"{100 * max(widest.loss().high, 0):.1f} points of {METRICS[widest.metric].title} in {widest.task}"
    return f"it loses nothing measurable (at most {bound})"


def _savings(speed: Speed, report: Report) -> str:
    """Returns ` and is 3.1 times smaller … than fp16`, for costs that differ by about 5 % or more."""
    words = {
        "size_mb": ("{} times smaller", "{} times larger"),
        "seconds_per_item": ("{} times faster", "{} times slower"),
        "peak_memory_mb": ("in need of {} times less memory", "in need of {} times more memory"),
    }
    told = []
    for name, ratio in _ratios(speed, report.reference.speed):
        if ratio <= WORTH or ratio >= 1 / WORTH:
            told.append(words[name][ratio > 1].format(f"{max(ratio, 1 / ratio):.1f}"))
    return f" and is {joined(told)} than {report.reference.title}" if told else ""


def _ratios(speed: Speed, reference: Speed) -> Iterator[tuple[str, float]]:
    """Yields the costs relative to the reference's, for those that were measured for both."""
    for name in ("size_mb", "seconds_per_item", "peak_memory_mb"):
        own, other = getattr(speed, name), getattr(reference, name)
        if own > 0 and other > 0:
            yield name, own / other


def _cost(speed: Speed, reference: Speed) -> float:
    """Returns the geometric mean of size, time and memory, relative to the reference."""
    ratios = [ratio for _, ratio in _ratios(speed, reference)]
    return math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else 1.0


def _said(bundles: list[BundleReport], one: str, several: str) -> list[str]:
    return [f"{joined([each.title for each in bundles])} {several if len(bundles) > 1 else one}"] if bundles else []


def _sentence(reason: str, beside: list[str]) -> str:
    return "; ".join([reason, *beside]) + "."
