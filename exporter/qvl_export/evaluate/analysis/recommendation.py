"""Recommends which of the compared models to ship: the cheapest for which the set rules out a loss."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from ...common.enumeration import joined
from ..metrics.scores import METRICS, primary_metric
from .results import BundleReport, Comparison, Recommendation, Report, Speed
from .statistics import MIN_ITEMS

MAX_LOSS = 0.02
"""A bundle is not recommended while it may lose more than two points of a primary metric."""
MAX_COST_RATIO = 0.95
"""Highest cost (size, time and memory together) relative to the reference at which a bundle is worth shipping."""
COSTS = {"size_mb": "disk space", "seconds_per_item": "time per item", "peak_memory_mb": "memory"}


def recommend(report: Report) -> Recommendation:
    """Recommends the cheapest bundle without loss, the reference if no bundle qualifies, or nothing if undecided.

    PyTorch as the reference is never recommended.
    """
    losing = [each for each in report.bundles if each.verdict.outcome == "loss"]
    failing = [each for each in report.bundles if each.failed and each not in losing]
    qualified = [each for each in report.bundles if each not in (*losing, *failing) and not _doubt(each)]
    doubtful = [each for each in report.bundles if each not in (*losing, *failing, *qualified)]
    best = min(qualified, key=lambda each: _cost(each.speed, report.reference.speed), default=None)
    notes = [
        *_clause(losing, "loses accuracy", "lose accuracy"),
        *_clause(failing, "fails on some items", "fail on some items"),
    ]
    if best is not None and (_is_torch(report) or _cost(best.speed, report.reference.speed) <= MAX_COST_RATIO):
        notes += [_short_doubt(each) for each in doubtful]
        return Recommendation(
            best.title, best.path, _sentence(f"{_evidence(best)}{_savings(best.speed, report)}", notes)
        )
    if doubtful:
        return Recommendation(None, "", _sentence(_doubt(doubtful[0]), notes))
    if _is_torch(report):
        return Recommendation(None, "", _sentence("no bundle matches PyTorch", notes))
    if best is not None:
        saving = [each for each in qualified if _cost(each.speed, report.reference.speed) < 1]
        useless = [each for each in qualified if each not in saving]
        notes += _clause(saving, "loses nothing but saves too little", "lose nothing but save too little")
        notes += _clause(useless, "loses nothing but saves nothing overall", "lose nothing but save nothing overall")
    return Recommendation(report.reference.title, report.reference.path, _sentence("it is the reference itself", notes))


def _is_torch(report: Report) -> bool:
    """Whether the reference was run by PyTorch, which cannot be shipped."""
    return not report.reference.family


def _primary(bundle: BundleReport) -> list[Comparison]:
    return [score for score in bundle.scores if score.metric == primary_metric(score.task)]


def _widest(scores: Sequence[Comparison]) -> Comparison:
    return max(scores, key=lambda score: score.loss().high)


def _highest_loss(score: Comparison) -> str:
    return f"{100 * max(score.loss().high, 0):.1f} points of {METRICS[score.metric].title} in {score.task}"


def _doubt(bundle: BundleReport) -> str:
    """Returns why the set cannot rule out a loss; empty if it can."""
    primary = _primary(bundle)
    if bundle.verdict.outcome == "identical":
        return ""
    few = [score.task for score in primary if score.too_few]
    if few or not primary:
        tasks = joined(few) if few else "any task"
        return f"the set has too few items for {tasks} to measure what {bundle.title} loses (at least {MIN_ITEMS} each)"
    widest = _widest(primary)
    if widest.loss().high <= MAX_LOSS:
        return ""
    needed = math.ceil(widest.items * (widest.loss().high / MAX_LOSS) ** 2)
    return (
        f"{bundle.title} shows no loss, but a loss of up to {_highest_loss(widest)} cannot be ruled out "
        f"(about {needed:,} items would decide)"
    )


def _short_doubt(bundle: BundleReport) -> str:
    """Returns in a few words what an undecided bundle may lose."""
    primary = _primary(bundle)
    if not primary or any(score.too_few for score in primary):
        return f"{bundle.title} was evaluated on too few items"
    return f"{bundle.title} may lose up to {_highest_loss(_widest(primary))} (more items would decide)"


def _evidence(bundle: BundleReport) -> str:
    if bundle.verdict.outcome == "identical":
        return "its answers are identical to the reference's"
    return f"it has no measurable loss (at most {_highest_loss(_widest(_primary(bundle)))})"


def _savings(speed: Speed, report: Report) -> str:
    """Returns `, and it takes 3.1 times less memory … than fp16`, for costs that differ by about 5 % or more."""
    parts = [
        f"{max(ratio, 1 / ratio):.1f} times {'more' if ratio > 1 else 'less'} {COSTS[name]}"
        for name, ratio in _ratios(speed, report.reference.speed)
        if ratio <= MAX_COST_RATIO or ratio >= 1 / MAX_COST_RATIO
    ]
    return f", and it takes {joined(parts)} than {report.reference.title}" if parts else ""


def _ratios(speed: Speed, reference: Speed) -> Iterator[tuple[str, float]]:
    """Yields the costs relative to the reference's, for those that were measured for both."""
    for name in COSTS:
        own, other = getattr(speed, name), getattr(reference, name)
        if own > 0 and other > 0:
            yield name, own / other


def _cost(speed: Speed, reference: Speed) -> float:
    """Returns the geometric mean of size, time and memory, relative to the reference."""
    ratios = [ratio for _, ratio in _ratios(speed, reference)]
    return math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else 1.0


def _clause(bundles: list[BundleReport], one: str, several: str) -> list[str]:
    return [f"{joined([each.title for each in bundles])} {several if len(bundles) > 1 else one}"] if bundles else []


def _sentence(reason: str, notes: list[str]) -> str:
    return "; ".join([reason, *notes]) + "."
