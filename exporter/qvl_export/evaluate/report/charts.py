"""The plots of a report: accuracy against cost, and SQNR layer by layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ..analysis.results import Report, Speed
from ..metrics.scores import METRICS, primary_metric
from . import svg as figures
from .svg import Line, Point
from .text import prunes

MAX_SQNR_SHOWN = 100.0
"""SQNR in decibels above which values are practically equal, the upper end of the axis."""


def trade_offs(report: Report) -> list[dict[str, str]]:
    """Plots the primary metric of each task against size and time, and against image tokens if a model left some out.

    Metrics are never mixed.
    """
    costs: dict[str, Callable[[Speed], float | None]] = {
        "size in MB": lambda speed: speed.size_mb or None,
        "seconds per item": lambda speed: speed.seconds_per_item,
    }
    if prunes(report):
        costs["image tokens per item"] = lambda speed: speed.image_tokens
    return [
        {
            "title": f"{METRICS[primary_metric(task)].title} in {task} against {title}",
            "svg": _trade_off(report, task, title, cost),
        }
        for task in report.reference.rates
        for title, cost in costs.items()
    ]


def _trade_off(report: Report, task: str, title: str, cost: Callable[[Speed], float | None]) -> str:
    """Plots one metric against one cost, with the interval of each bundle's difference from the reference.

    Models without that cost, such as PyTorch's image tokens, are left out.
    """
    metric = primary_metric(task)
    at = 100 * report.reference.rates[task][metric]
    x = cost(report.reference.speed)
    points = [] if x is None else [Point(report.reference.title, x, at, at, at, 0)]
    for number, bundle in enumerate(report.bundles, 1):
        if (x := cost(bundle.speed)) is None:
            continue
        for found in bundle.scores:
            if (found.task, found.metric) == (task, metric):
                low, high = (
                    (0.0, 0.0) if found.too_few else (found.low - found.difference, found.high - found.difference)
                )
                y = 100 * found.other
                points.append(Point(bundle.title, x, y, y + 100 * low, y + 100 * high, number))
    better = "lower" if METRICS[metric].lower_is_better else "higher"
    return figures.scatter(points, title, f"{METRICS[metric].title}, % ({better} is better)")


def layer_plot(report: Report) -> dict[str, Any]:
    """Returns the per-layer plot from the blame of every bundle; empty if there is none."""
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
    return MAX_SQNR_SHOWN if part["sqnr"] is None else min(float(part["sqnr"]), MAX_SQNR_SHOWN)
