"""The report as one HTML page, Markdown and JSON, written beside their places and renamed."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import minijinja
import msgspec
from rapidfuzz.distance import Levenshtein

from qvl_runtime.media import load_pages

from . import figures
from .boxes import Box, PageGeometry, parse_boxes
from .figures import Line, Mark
from .metrics import METRICS, TASKS
from .summary import BundleReport, Comparison, Report, WorstItem, loss_interval

TEMPLATE = Path(__file__).with_name("report.html.jinja")
THUMBNAIL = 460
"""Longest side of a page's picture, in pixels."""
DETAILS = 4000
"""Characters of an answer shown."""
SQNR_SHOWN = 100.0
"""Decibels above which values are as good as equal."""


def write(report: Report, out: Path) -> None:
    """`report.json`, `report.md` and `index.html`."""
    out.mkdir(parents=True, exist_ok=True)
    _replace(out / "report.json", msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    _replace(out / "report.md", markdown(report).encode() + b"\n")
    _replace(out / "index.html", html(report).encode())


def _replace(path: Path, data: bytes) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_bytes(data)
    beside.replace(path)


def markdown(report: Report) -> str:
    """Verdicts and the main table."""
    lines = [f"# What it costs: {_counted(report)}", ""]
    lines += [f"- **{bundle.title}**: {bundle.verdict.text}" for bundle in report.bundles]
    head, rows = main_table(report)
    lines += ["", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(cell.replace('<br>', ' ') for cell in row)} |" for row in rows]
    lines += ["", *(f"{name} {text}" for name, text in notes(report))]
    return "\n".join(lines)


def _counted(report: Report) -> str:
    tasks = ", ".join(f"{count} {task}" for task, count in report.tasks.items())
    return f"{report.items:,} items ({tasks}) of {Path(report.data).name}"


def main_table(report: Report) -> tuple[list[str], list[list[str]]]:
    """Head and rows: the reference and every bundle, the first metric of every task beside cost."""
    tasks = list(report.reference.rates)
    head = ["", "MB", *(f"{METRICS[TASKS[task][0]].title} ({task})" for task in tasks), "KL", "same top"]
    head += ["load s", "first token ms", "tokens/s", "peak MB"]
    rates = [_percent(report.reference.rates[task][TASKS[task][0]]) for task in tasks]
    rows = [_row(report.reference.title, report.reference.speed.size_mb, [*rates, "", ""], report.reference.speed)]
    for bundle in report.bundles:
        first = {found.task: found for found in bundle.scores if found.metric == TASKS[found.task][0]}
        cells = [f"{_percent(first[task].other)}<br>{change(first[task])}" for task in tasks]
        agreed = bundle.agreement
        cells += [f"{agreed.kl_mean:.2g}", _percent(agreed.same_top)] if agreed else ["", ""]
        rows.append(_row(bundle.title, bundle.speed.size_mb, cells, bundle.speed))
    return head, rows


def _row(title: str, size: float, cells: list[str], speed: Any) -> list[str]:
    costs = [f"{speed.load_seconds:.2f}", f"{speed.first_token_ms:.0f}", f"{speed.tokens_per_second:.0f}"]
    return [title, f"{size:,.1f}", *cells, *costs, f"{speed.peak_memory_mb:,.0f}"]


def _percent(rate: float) -> str:
    return f"{100 * rate:.1f} %"


def change(found: Comparison) -> str:
    """`+0.3 (−0.2 to 0.8)`: the difference in points and its interval."""
    return f"{_points(found.difference, True)} ({_points(found.low)} to {_points(found.high)})"


def _points(rate: float, sign: bool = False) -> str:
    text = f"{100 * rate:+.1f}" if sign else f"{100 * rate:.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "−")


def notes(report: Report) -> list[tuple[str, str]]:
    """What must be known to read the figures: the noise floor and what failed."""
    found = []
    if floor := report.noise:
        same = f"{floor.same_answers} of {floor.items} answers are the same"
        text = f"the reference against itself on another number of threads: KL {floor.kl_mean:.2g}, {same}."
        found.append(("Noise floor:", text))
    if report.reference.failed:
        found.append(("Left out:", f"{report.reference.failed} items at which the reference itself failed."))
    for bundle in report.bundles:
        if bundle.failed:
            found.append((f"{bundle.title}:", f"failed at {bundle.failed} items, which count as empty answers."))
    return found


def html(report: Report) -> str:
    """The page; nothing in it is loaded from elsewhere."""
    environment = minijinja.Environment(trim_blocks=True, lstrip_blocks=True)
    environment.add_template("report.html", TEMPLATE.read_text("utf-8"))
    head, rows = main_table(report)
    return environment.render_template(
        "report.html",
        report=msgspec.to_builtins(report),
        headline=headline(report),
        counted=_counted(report),
        head=head,
        rows=[{"name": row[0], "cells": row[1:]} for row in rows],
        notes=notes(report),
        bundles=[_bundle(report, bundle, number) for number, bundle in enumerate(report.bundles, 1)],
        agreement=_agreement_rows(report),
        size_plot=_trade_off(report, "size in MB", lambda speed: speed.size_mb),
        time_plot=_trade_off(report, "seconds an item", lambda speed: speed.seconds_per_item),
        layers=_layers(report),
    )


def headline(report: Report) -> str:
    """All verdicts in one sentence."""
    said: dict[str, list[str]] = {}
    for bundle in report.bundles:
        said.setdefault(bundle.verdict.outcome, []).append(bundle.title)
    words = {
        "loss": ("loses accuracy", "lose accuracy"),
        "no measurable loss": ("loses nothing measurable", "lose nothing measurable"),
        "gain": ("reads better than the reference", "read better than the reference"),
        "identical": ("answers exactly as the reference", "answer exactly as the reference"),
    }
    parts = [f"{_and(said[outcome])} {words[outcome][len(said[outcome]) > 1]}" for outcome in words if outcome in said]
    return "; ".join(parts) + "."


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _bundle(report: Report, bundle: BundleReport, series: int) -> dict[str, Any]:
    """What the template shows of one bundle."""
    every = [found for each in report.bundles for found in (*each.scores, *each.by_kind, *each.by_length)]
    bounds = _loss_bounds(every)
    ratio = report.reference.speed.size_mb / bundle.speed.size_mb if bundle.speed.size_mb else 0
    rows = partial(_forest, bounds=bounds, series=series)
    return {
        "title": bundle.title,
        "series": series % figures.SERIES,
        "precisions": bundle.precisions,
        "outcome": bundle.verdict.outcome,
        "badge": "loss" if bundle.verdict.outcome == "loss" else "",
        "identical": bundle.verdict.outcome == "identical",
        "verdict": bundle.verdict.text,
        "size": f"{bundle.speed.size_mb:,.1f} MB" + (f", {ratio:.1f}× smaller" if ratio >= 1.05 else ""),
        "scores": rows(bundle.scores),
        "by_kind": rows(bundle.by_kind),
        "by_length": rows(bundle.by_length),
        "worst": [_worst(item, report, bundle) for item in bundle.worst],
    }


def _loss_bounds(found: Sequence[Comparison]) -> tuple[float, float]:
    """A scale that all forests share: every interval, and at least two points either way; wild ones are cut off."""
    intervals = [loss_interval(each) for each in found]
    lows, highs = sorted(each.low for each in intervals), sorted(each.high for each in intervals)
    return max(min(-0.02, *lows), -0.25) if lows else -0.02, min(max(0.02, *highs), 0.25) if highs else 0.02


def _forest(found: Sequence[Comparison], bounds: tuple[float, float], series: int) -> list[dict[str, str]]:
    """A row a comparison: loss to the right."""
    rows = []
    for each in found:
        loss = loss_interval(each)
        middle = METRICS[each.metric].loss(each.reference, each.other)
        low, high, middle = (min(max(value, bounds[0]), bounds[1]) for value in (loss.low, loss.high, middle))
        verdict = (
            "worse"
            if loss.low > 0 and each.p_value < 0.05
            else "better"
            if loss.high < 0 and each.p_value < 0.05
            else ""
        )
        rows.append(
            {
                "task": each.task,
                "name": each.group or METRICS[each.metric].title,
                "metric": METRICS[each.metric].title,
                "items": f"{each.items:,}",
                "reference": _percent(each.reference),
                "other": _percent(each.other),
                "change": change(each),
                "verdict": verdict,
                "p": f"p = {each.p_value:.3f}" + (f", McNemar {each.mcnemar:.3f}" if each.mcnemar is not None else ""),
                "needed": f"{each.items_needed:,}" if each.items_needed > each.items else "",
                "svg": figures.whisker(low, middle, high, bounds, series),
            }
        )
    return rows


def _agreement_rows(report: Report) -> list[dict[str, Any]]:
    named = [(bundle.title, bundle.agreement) for bundle in report.bundles]
    named += [("noise floor", report.noise)]
    rows = []
    for name, found in named:
        if found is None:
            continue
        first = "never" if found.first_divergence_median is None else f"token {found.first_divergence_median + 1:g}"
        cells = [
            f"{found.kl_mean:.2g} ({found.kl_low:.2g} to {found.kl_high:.2g})",
            f"{found.kl_median:.2g}",
            f"{found.kl_p99:.2g}",
            f"{found.kl_max:.2g}",
            f"{100 * found.same_top:.2f} %",
            f"{found.perplexity_ratio:.4f}",
            f"{found.diverging_items:,} of {found.items:,}",
            first,
            f"{found.same_answers:,} of {found.items:,}",
            f"{found.empty_answers} ({found.empty_answers_reference})",
            f"{found.length_ratio:.3f}",
        ]
        rows.append({"name": name, "cells": cells})
    return rows


def _trade_off(report: Report, title: str, cost: Any) -> str:
    """The mean of the first metrics of all tasks, as scores, against a cost."""
    tasks = list(report.reference.rates)
    rates = [_as_score(TASKS[task][0], report.reference.rates[task][TASKS[task][0]]) for task in tasks]
    mean = 100 * sum(rates) / max(len(rates), 1)
    marks = [Mark(report.reference.title, cost(report.reference.speed), mean, mean, mean, 0)]
    for number, bundle in enumerate(report.bundles, 1):
        first = [found for found in bundle.scores if found.metric == TASKS[found.task][0]]
        scores = [_as_score(found.metric, found.other) for found in first]
        half = [(found.high - found.low) / 2 for found in first]
        spread = 100 * sum(value**2 for value in half) ** 0.5 / max(len(half), 1)
        y = 100 * sum(scores) / max(len(scores), 1)
        marks.append(Mark(bundle.title, cost(bundle.speed), y, y - spread, y + spread, number))
    return figures.scatter(marks, title, "mean score")


def _as_score(metric: str, rate: float) -> float:
    return 1 - min(rate, 1.0) if METRICS[metric].lower_is_better else rate


def _layers(report: Report) -> dict[str, Any]:
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


def _worst(item: WorstItem, report: Report, bundle: BundleReport) -> dict[str, Any]:
    """An item with its picture, boxes, and both answers with their differences marked."""
    reference, other = marked(item.reference_answer[:DETAILS], item.answer[:DETAILS])
    picture, size = thumbnail(Path(item.image))
    boxes = []
    if item.task == "grounding" and size:
        family = report.reference.family or bundle.family
        places = [
            ("truth", item.truth, PageGeometry.original(size)),
            ("reference", item.reference_answer, PageGeometry.of(family, size, item.reference_resized)),
            ("other", item.answer, PageGeometry.of(bundle.family, size, item.resized)),
        ]
        boxes = [_rectangle(kind, box) for kind, text, page in places for box in parse_boxes(text, page)[:50]]
    return {
        "picture": picture,
        "size": size or (1, 1),
        "boxes": boxes,
        "page": Path(item.image).name,
        "task": item.task,
        "kind": item.kind,
        "prompt": item.prompt,
        "truth": item.truth[:DETAILS],
        "reference": reference,
        "other": other,
        "metric": METRICS[item.metric].title,
        "scores": f"{_percent(item.reference)} → {_percent(item.other)}",
        "kl": f"{item.kl:.2g}",
        "error": item.error,
    }


def _rectangle(kind: str, box: Box) -> dict[str, Any]:
    return {"kind": kind, "x": box[0], "y": box[1], "w": max(box[2] - box[0], 0), "h": max(box[3] - box[1], 0)}


def marked(reference: str, other: str) -> tuple[str, str]:
    """Both answers as HTML: what the other left out or changed, and what it wrote instead."""
    one, two = [], []
    for step in Levenshtein.opcodes(reference, other):
        before, after = reference[step.src_start : step.src_end], other[step.dest_start : step.dest_end]
        if step.tag == "equal":
            one.append(escape(before))
            two.append(escape(after))
        else:
            one.append(f"<del>{escape(before)}</del>" if before else "")
            two.append(f"<ins>{escape(after)}</ins>" if after else "")
    return "".join(one), "".join(two)


def thumbnail(path: Path) -> tuple[str, tuple[int, int] | None]:
    """A small picture as a data URI, and the page's size; nothing where it cannot be read."""
    try:
        page = load_pages(path)[0]
    except Exception:  # the item's own error says what is wrong with it
        return "", None
    small = page.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=70)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}", page.size
