"""The report's figures and verdicts as text, for both Markdown and HTML."""

from __future__ import annotations

from pathlib import Path

from qvl_runtime.common.counted import counted

from ...common.enumeration import joined
from ..analysis.machine import Machine
from ..analysis.results import BundleReport, Comparison, Recommendation, Report, Speed
from ..metrics.scores import METRICS, primary_metric


def item_counts(report: Report) -> str:
    """Returns the number of items in total and by task, and the name of the set."""
    tasks = ", ".join(f"{count} {task}" for task, count in report.tasks.items())
    how = ", answered with the checkpoint's generation settings" if report.use_generation_config else ""
    return f"{counted(report.items, 'item')} ({tasks}) of {Path(report.data).name}{how}"


def main_table(report: Report) -> tuple[list[str], list[list[str]]]:
    """Returns head and rows: the reference and every bundle, with the primary metric of every task and the costs."""
    tasks = list(report.reference.rates)
    head = ["", "MB", *(f"{METRICS[primary_metric(task)].title} ({task})" for task in tasks), "KL", "same top token"]
    head += ["load s", "first token ms", "tokens/s", "peak memory MB", *(["image tokens"] if prunes(report) else [])]
    rates = [percent(report.reference.rates[task][primary_metric(task)]) for task in tasks]
    rows = [
        _row(
            f"{report.reference.title} (reference)",
            report.reference.speed.size_mb,
            [*rates, "", ""],
            report.reference.speed,
        )
    ]
    for bundle in report.bundles:
        first = {found.task: found for found in bundle.scores if found.metric == primary_metric(found.task)}
        cells = [f"{percent(first[task].other)}<br>{change(first[task])}" for task in tasks]
        agreed = bundle.agreement
        cells += [f"{agreed.kl_mean:.2g}", percent(agreed.same_top)] if agreed else ["", ""]
        rows.append(_row(bundle.title, bundle.speed.size_mb, cells, bundle.speed))
    if prunes(report):
        for row, model in zip(rows, (report.reference, *report.bundles), strict=True):
            row.append(_image_tokens(model.speed))
    return head, rows


def prunes(report: Report) -> bool:
    """Whether any model left image tokens out."""
    return any(model.speed.pruned_tokens for model in (report.reference, *report.bundles))


def _image_tokens(speed: Speed) -> str:
    """Returns the mean number of image tokens per item, and the share that was left out."""
    if speed.image_tokens is None or speed.pruned_tokens is None:
        return ""
    share = speed.pruned_tokens / (speed.image_tokens + speed.pruned_tokens)
    return f"{speed.image_tokens:,.0f}" + (f",<br>{percent(share)} left out" if share else "")


def _row(title: str, size: float, cells: list[str], speed: Speed) -> list[str]:
    decoding = "" if speed.tokens_per_second is None else f"{speed.tokens_per_second:.0f}"
    costs = [f"{speed.load_seconds:.2f}", f"{speed.first_token_ms:.0f}", decoding]
    if not size:  # a server: what it takes is not seen from here
        return [title, "", *cells, "", *costs[1:], ""]
    return [title, f"{size:,.1f}", *cells, *costs, f"{speed.peak_memory_mb:,.0f}"]


def percent(rate: float) -> str:
    return f"{100 * rate:.1f} %"


def change(found: Comparison) -> str:
    """Returns the difference in points and its interval, `+0.3 (−0.2 to 0.8)`, or a note on too few items instead."""
    if found.too_few:
        return f"{points(found.difference, True)} ({too_few(found.items)})"
    return f"{points(found.difference, True)} ({points(found.low)} to {points(found.high)})"


def too_few(items: int) -> str:
    return f"{counted(items, 'item')}, too few"


def points(rate: float, sign: bool = False) -> str:
    text = f"{100 * rate:+.1f}" if sign else f"{100 * rate:.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "−")


def notes(report: Report) -> list[tuple[str, str]]:
    """Returns notes that are needed to read the figures: the noise floor and failed items."""
    found = []
    if floor := report.noise:
        same = f"{floor.same_answers} of {floor.items} answers are identical"
        text = f"the reference compared with itself at a different number of threads: KL {floor.kl_mean:.2g}, {same}."
        found.append(("Noise floor:", text))
    if report.reference.failed:
        found.append(("Excluded:", f"{counted(report.reference.failed, 'item')} on which the reference failed."))
    found += [(f"{each.title}:", _server(each)) for each in report.bundles if each.is_server]
    for bundle in report.bundles:
        if bundle.failed:
            found.append(
                (f"{bundle.title}:", f"failed on {counted(bundle.failed, 'item')}; failures count as empty answers.")
            )
    return found


def _server(bundle: BundleReport) -> str:
    """Returns how far the answers of a server agree with the reference's."""
    text = "a server, with times as its client sees them"
    if (answers := bundle.answers) is None:
        return f"{text}; it gave no answer."
    text += f"; {answers.identical} of {answers.items} answers are identical to the reference's, the edit distance is "
    text += f"{percent(answers.edit_distance)} of its characters"
    if (prefix := answers.prefix) is None:
        return f"{text}; it gives no log probabilities."
    text += f"; along common beginnings ({prefix.tokens:,} tokens) {percent(prefix.same)} of the tokens are the same, "
    return f"{text}KL is at least {prefix.kl_mean:.2g}, log probabilities differ by {prefix.logprob_difference:.2g}."


def recommendation_title(found: Recommendation | None) -> str:
    """Returns the title of the recommendation."""
    if found is None:
        return ""
    return f"Ship {found.title}" if found.title else "No recommendation yet"


def describe_machine(machine: Machine) -> str:
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
    titles: dict[str, list[str]] = {}
    for bundle in report.bundles:
        titles.setdefault(bundle.verdict.outcome, []).append(bundle.title)
    clauses = {
        "loss": ("loses accuracy", "lose accuracy"),
        "no measurable loss": ("shows no measurable loss", "show no measurable loss"),
        "too few items": ("was evaluated on too few items", "were evaluated on too few items"),
        "gain": ("is more accurate than the reference", "are more accurate than the reference"),
        "identical": ("answers exactly like the reference", "answer exactly like the reference"),
    }
    parts = [
        f"{joined(titles[outcome])} {clauses[outcome][len(titles[outcome]) > 1]}"
        for outcome in clauses
        if outcome in titles
    ]
    return "; ".join(parts) + "."
