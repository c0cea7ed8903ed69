"""The drawings of a report: what is lost against what it costs, and layer by layer."""

from __future__ import annotations

from typing import Any

import msgspec

from . import figures
from .figures import Line, Mark
from .metrics import METRICS, TASKS
from .results import Report

SQNR_SHOWN = 100.0
"""Decibels above which values are as good as equal."""


def trade_off(report: Report, title: str, cost: Any) -> str:
    """The mean of the first metrics of all tasks, as scores, against a cost."""
    tasks = list(report.reference.rates)
    rates = [_as_score(TASKS[task][0], report.reference.rates[task][TASKS[task][0]]) for task in tasks]
    mean = 100 * sum(rates) / max(len(rates), 1)
    marks = [Mark(report.reference.title, cost(report.reference.speed), mean, mean, mean, 0)]
    for number, bundle in enumerate(report.bundles, 1):
        first = [found for found in bundle.scores if found.metric == TASKS[found.task][0]]
        scores = [_as_score(found.metric, found.other) for found in first]
        bounded = not any(found.too_few for found in first)
        half = [(found.high - found.low) / 2 for found in first if bounded]
        spread = 100 * sum(value**2 for value in half) ** 0.5 / max(len(half), 1)
        y = 100 * sum(scores) / max(len(scores), 1)
        marks.append(Mark(bundle.title, cost(bundle.speed), y, y - spread, y + spread, number))
    return figures.scatter(marks, title, "mean score")


def _as_score(metric: str, rate: float) -> float:
    return 1 - min(rate, 1.0) if METRICS[metric].lower_is_better else rate


def layers(report: Report) -> dict[str, Any]:
    """The per-layer plot, from the blame of every bundle."""
    blamed = msgspec.to_builtins(report.blame)
    if not blamed:
        return {}
    stages = [stage["name"] for stage in next(iter(blamed.values()))["stages"]]
    series, found = [], []
    for number, bundle in enumerate(report.bundles, 1):
        if bundle.title not in blamed:
            continue
        parts = blamed[bundle.title]
        for part, dashed in (("vision", False), ("text", True)):
            values = [_decibels(stage.get(part)) for stage in parts["stages"]]
            series.append(Line(f"{bundle.title}, {part} tokens", values, number, dashed))
        found.append({"title": bundle.title, "series": number % figures.SERIES, "text": parts["summary"]})
    return {"svg": figures.lines(series, stages, "SQNR in dB"), "found": found}


def _decibels(part: dict[str, Any] | None) -> float | None:
    if part is None:
        return None
    return SQNR_SHOWN if part["sqnr"] is None else min(float(part["sqnr"]), SQNR_SHOWN)
