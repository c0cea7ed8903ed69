"""Writes the report as one HTML page, Markdown and JSON, each file atomically."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import minijinja
import msgspec

from ...common.atomic_output import atomic_file
from ..analysis.results import AgreementSummary, BundleReport, Comparison, Report
from ..analysis.statistics import MIN_ITEMS, Interval
from ..metrics.scores import METRICS
from . import svg as figures
from .charts import layer_plot, trade_offs
from .output_dir import REPORT
from .text import (
    change,
    describe_machine,
    headline,
    item_counts,
    main_table,
    notes,
    percent,
    recommendation_title,
    too_few,
)
from .worst_items import item_values

TEMPLATE = Path(__file__).with_name("report.html.jinja")
BADGES = {"loss": "loss", "too few items": "unsure"}
"""CSS classes of the outcomes that are not shown as good."""


def write(report: Report, out: Path) -> None:
    """Writes `report.json`, `report.md` and `index.html`."""
    out.mkdir(parents=True, exist_ok=True)
    _write(out / REPORT, msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    _write(out / "report.md", markdown(report).encode() + b"\n")
    _write(out / "index.html", html(report).encode())


def _write(path: Path, data: bytes) -> None:
    with atomic_file(path) as file:
        file.write(data)


def markdown(report: Report) -> str:
    """Renders the recommendation, verdicts, main table and machine."""
    lines = [f"# Accuracy report: {item_counts(report)}", ""]
    if report.recommendation:
        lines += [f"**{recommendation_title(report.recommendation)}**: {report.recommendation.reason}", ""]
    lines += [f"- **{bundle.title}**: {bundle.verdict.text}" for bundle in report.bundles]
    head, rows = main_table(report)
    lines += ["", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(cell.replace('<br>', ' ') for cell in row)} |" for row in rows]
    lines += ["", *(f"{name} {text}" for name, text in notes(report))]
    if report.machine:
        lines += ["", f"Measured on: {describe_machine(report.machine)}; {report.created}."]
    return "\n".join(lines)


def html(report: Report) -> str:
    """Renders the self-contained page; it loads nothing from elsewhere."""
    environment = minijinja.Environment(trim_blocks=True, lstrip_blocks=True)
    environment.add_filter("sentence", lambda text: text[:1].upper() + text[1:])
    environment.add_template("report.html", TEMPLATE.read_text("utf-8"))
    head, rows = main_table(report)
    return environment.render_template(
        "report.html",
        report=msgspec.to_builtins(report),
        headline=headline(report),
        item_counts=item_counts(report),
        head=head,
        rows=[{"name": row[0], "cells": row[1:]} for row in rows],
        notes=notes(report),
        bundles=[_bundle(report, bundle, number) for number, bundle in enumerate(report.bundles, 1)],
        recommendation_title=recommendation_title(report.recommendation),
        machine=describe_machine(report.machine) if report.machine else "",
        agreement=_agreement(report),
        plots=trade_offs(report),
        layers=layer_plot(report),
        min_items=MIN_ITEMS if any(each.too_few for each in _all_comparisons(report)) else None,
    )


def _bundle(report: Report, bundle: BundleReport, series: int) -> dict[str, Any]:
    """Returns the template's values for one bundle."""
    bounds = _loss_bounds(_all_comparisons(report))
    ratio = report.reference.speed.size_mb / bundle.speed.size_mb if bundle.speed.size_mb else 0
    rows = partial(_forest, bounds=bounds, series=series)
    return {
        "title": bundle.title,
        "series": series % figures.SERIES,
        "precisions": bundle.precisions,
        "outcome": bundle.verdict.outcome,
        "badge": BADGES.get(bundle.verdict.outcome, ""),
        "identical": bundle.verdict.outcome == "identical",
        "verdict": bundle.verdict.text,
        "size": _size(bundle.speed.size_mb, ratio),
        "scores": rows(bundle.scores),
        "by_kind": rows(bundle.by_kind),
        "by_length": rows(bundle.by_length),
        "worst": [item_values(item, report, bundle) for item in bundle.worst],
    }


def _size(megabytes: float, ratio: float) -> str:
    smaller = f", {ratio:.1f}× smaller" if ratio >= 1.05 else ""
    return f"{megabytes:,.1f} MB{smaller}. " if megabytes else ""


def _all_comparisons(report: Report) -> list[Comparison]:
    return [found for each in report.bundles for found in (*each.scores, *each.by_kind, *each.by_length)]


def _loss_bounds(found: Sequence[Comparison]) -> tuple[float, float]:
    """Returns the scale of all forest plots: it covers all intervals, at least ±2 points and at most ±25 points."""
    intervals = [_loss_interval(each) for each in found]
    lows, highs = sorted(each.low for each in intervals), sorted(each.high for each in intervals)
    return max(min(-0.02, *lows), -0.25) if lows else -0.02, min(max(0.02, *highs), 0.25) if highs else 0.02


def _loss_interval(each: Comparison) -> Interval:
    """Returns the interval to draw for a loss; only the loss itself if there are too few items."""
    middle = METRICS[each.metric].loss(each.reference, each.other)
    return Interval(middle, middle) if each.too_few else each.loss()


def _forest(found: Sequence[Comparison], bounds: tuple[float, float], series: int) -> list[dict[str, str]]:
    """Returns one row per comparison; losses point to the right."""
    return [_forest_row(each, bounds, series) for each in found]


def _forest_row(each: Comparison, bounds: tuple[float, float], series: int) -> dict[str, str]:
    metric, loss = METRICS[each.metric], _loss_interval(each)
    values = (loss.low, metric.loss(each.reference, each.other), loss.high)
    low, middle, high = (min(max(value, bounds[0]), bounds[1]) for value in values)
    return {
        "task": each.task,
        "name": each.group or metric.title,
        "metric": metric.title,
        "items": f"{each.items:,}",
        "reference": percent(each.reference),
        "other": percent(each.other),
        "change": change(each),
        "verdict": each.direction,
        "p": f"p = {each.p_value:.3f}" + (f", McNemar {each.mcnemar:.3f}" if each.mcnemar is not None else ""),
        "needed": f"{each.items_needed:,}" if each.items_needed > each.items else "",
        "svg": figures.whisker(low, middle, high, bounds, series),
    }


def _agreement(report: Report) -> dict[str, Any]:
    """Returns head and rows: one column per bundle, the noise floor last, so that few bundles make a narrow table."""
    named = [(bundle.title, bundle.agreement) for bundle in report.bundles]
    shown = [(name, found) for name, found in [*named, ("noise floor", report.noise)] if found is not None]
    columns = [_agreement_column(found) for _, found in shown]
    rows = [{"name": name, "cells": [column[name] for column in columns]} for name in (columns or [{}])[0]]
    return {"head": [name for name, _ in shown], "rows": rows}


def _agreement_column(found: AgreementSummary) -> dict[str, str]:
    """Returns the figures of one bundle by name."""
    first = "never" if found.first_divergence_median is None else f"token {found.first_divergence_median + 1:g}"
    bounds = too_few(found.items) if found.items < MIN_ITEMS else f"{found.kl_low:.2g} to {found.kl_high:.2g}"
    return {
        "KL, mean": f"{found.kl_mean:.2g}<br>{bounds}",
        "KL, median": f"{found.kl_median:.2g}",
        "KL, 99th percentile": f"{found.kl_p99:.2g}",
        "KL, maximum": f"{found.kl_max:.2g}",
        "same top token": f"{100 * found.same_top:.2f} %",
        "perplexity ratio": f"{found.perplexity_ratio:.4f}",
        "items with a diverging token": f"{found.diverging_items:,} of {found.items:,}",
        "first diverging token, median": first,
        "identical answers": f"{found.same_answers:,} of {found.items:,}",
        "empty answers (reference's)": f"{found.empty_answers} ({found.empty_answers_reference})",
        "answer length, ratio": f"{found.length_ratio:.3f}",
    }
