"""The report's figures and verdicts as text, shared by Markdown and the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...common.enumeration import joined
from ..analysis.machine import Machine
from ..analysis.results import Comparison, Recommendation, Report
from ..metrics.scores import METRICS, TASKS


def counted(report: Report) -> str:
    tasks = ", ".join(f"{count} {task}" for task, count in report.tasks.items())
    how = ", answered with the checkpoint's generation settings" if report.use_generation_config else ""
    return f"{report.items:,} items ({tasks}) of {Path(report.data).name}{how}"


def main_table(report: Report) -> tuple[list[str], list[list[str]]]:
    """Returns head and rows: the reference and every bundle, with the first metric of every task and the costs."""
    tasks = list(report.reference.rates)
    head = ["", "MB", *(f"{METRICS[TASKS[task][0]].title} ({task})" for task in tasks), "KL", "same top token"]
    head += ["load s", "first token ms", "tokens/s", "peak memory MB"]
    rates = [percent(report.reference.rates[task][TASKS[task][0]]) for task in tasks]
    rows = [
        _row(
            f"{report.reference.title} (reference)",
            report.reference.speed.size_mb,
            [*rates, "", ""],
            report.reference.speed,
        )
    ]
    for bundle in report.bundles:
        first = {found.task: found for found in bundle.scores if found.metric == TASKS[found.task][0]}
        cells = [f"{percent(first[task].other)}<br>{change(first[task])}" for task in tasks]
        agreed = bundle.agreement
        cells += [f"{agreed.kl_mean:.2g}", percent(agreed.same_top)] if agreed else ["", ""]
        rows.append(_row(bundle.title, bundle.speed.size_mb, cells, bundle.speed))
    return head, rows


def _row(title: str, size: float, cells: list[str], speed: Any) -> list[str]:
    costs = [f"{speed.load_seconds:.2f}", f"{speed.first_token_ms:.0f}", f"{speed.tokens_per_second:.0f}"]
    return [title, f"{size:,.1f}", *cells, *costs, f"{speed.peak_memory_mb:,.0f}"]


def percent(rate: float) -> str:
    return f"{100 * rate:.1f} %"


def change(found: Comparison) -> str:
    """Returns the difference in points and its interval, `+0.3 (−0.2 to 0.8)`, or a note on too few items instead."""
    if found.too_few:
        return f"{points(found.difference, True)} ({too_few(found.items)})"
    return f"{points(found.difference, True)} ({points(found.low)} to {points(found.high)})"


def too_few(items: int) -> str:
    return f"{items} {'item' if items == 1 else 'items'}: too few to tell"


def points(rate: float, sign: bool = False) -> str:
    text = f"{100 * rate:+.1f}" if sign else f"{100 * rate:.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "−")


def notes(report: Report) -> list[tuple[str, str]]:
    """Returns notes that are needed to read the figures: the noise floor and failed items."""
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


def advice(found: Recommendation | None) -> str:
    """Returns the recommendation in a few words."""
    if found is None:
        return ""
    return f"Ship {found.title}" if found.title else "Nothing to ship yet"


def measured_on(machine: Machine) -> str:
    """Describes the machine in one line."""
    instructions = f" ({', '.join(machine.instructions)})" if machine.instructions else ""
    processes = "1 process" if machine.workers == 1 else f"{machine.workers} processes per model"
    spread = f" on {machine.machines} machines" if machine.machines > 1 else ""
    threads = "1 thread" if machine.threads == 1 else f"{machine.threads} threads"
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    cores = "1 core" if machine.cores == 1 else f"{machine.cores} cores"
    return f"{machine.processor}{instructions}, {cores}; {processes} of {threads}{spread}; {machine.system}; {versions}"


def headline(report: Report) -> str:
    """Returns all verdicts in one sentence."""
    said: dict[str, list[str]] = {}
    for bundle in report.bundles:
        said.setdefault(bundle.verdict.outcome, []).append(bundle.title)
    words = {
        "loss": ("loses accuracy", "lose accuracy"),
        "no measurable loss": ("loses nothing measurable", "lose nothing measurable"),
        "too few items": ("was asked too few items to tell", "were asked too few items to tell"),
        "gain": ("reads better than the reference", "read better than the reference"),
        "identical": ("answers exactly as the reference", "answer exactly as the reference"),
    }
    parts = [
        f"{joined(said[outcome])} {words[outcome][len(said[outcome]) > 1]}" for outcome in words if outcome in said
    ]
    return "; ".join(parts) + "."
