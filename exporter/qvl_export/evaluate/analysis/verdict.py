"""The verdict in words, and the gates for pipelines."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from ...errors import ExportError
from ..metrics.scores import METRICS, TASKS
from .results import Comparison, Report, Verdict
from .statistics import ENOUGH, LEVEL, Interval, Paired, interval, items_needed, resampled, swap_test

Direction = Literal["", "worse", "better"]
FIRST_SHARE = 0.8
"""The first metrics' share of the false-alarm risk, if there are further metrics."""
_GATE = re.compile(r"\s*(\w+)\s*([<>])\s*([+-]?\d+(?:\.\d+)?)\s*(?:pt|points?|pp)?\s*$")


@dataclass(frozen=True)
class Finding:
    """The first metric of a task, item by item."""

    task: str
    metric: str
    pairs: Paired

    @property
    def too_few(self) -> bool:
        return self.pairs.items < ENOUGH


def give_verdict(
    findings: Sequence[Finding], identical: bool, failed: int, scores: Sequence[Comparison] = ()
) -> Verdict:
    """Returns the verdict: a loss if the first metric of any task shows one, or a further metric of `scores`.

    All follow one rule (see `risks`), by which the figures of the page are marked too. For tasks with too few items no
    bounds are reported; the permutation test, which is valid for any number of items, may still find a loss in them.
    """
    note = f" {failed} {_items(failed)} failed and count as empty answers." if failed else ""
    if identical and not failed:
        return Verdict("identical", "Every answer is identical to the reference's.")
    first = {(finding.task, finding.metric) for finding in findings}
    further = [found for found in scores if (found.task, found.metric) not in first]
    risk, further_risk = risks(len(findings), len(further))
    judged = [(finding, *_judge(finding, risk)) for finding in findings]
    losses = [(finding, bounds) for finding, bounds, outcome in judged if outcome == "worse"]
    gains = [(finding, bounds) for finding, bounds, outcome in judged if outcome == "better"]
    if losses:
        return Verdict("loss", " ".join(_tell("Loss", *loss) for loss in losses) + note)
    if worse := [found for found in further if direction(found.p_value, found.loss(), further_risk) == "worse"]:
        return Verdict("loss", f"{' '.join(map(_tell_further, worse))} The first metric of no task shows one.{note}")
    few = _too_few([finding for finding, _, outcome in judged if finding.too_few and not outcome])
    enough = [(finding, bounds) for finding, bounds, _ in judged if not finding.too_few]
    if gains:
        no_loss = " No measurable loss." if enough else ""
        return Verdict("gain", " ".join(_tell("Gain", *gain) for gain in gains) + no_loss + few + note)
    if not enough:
        return Verdict("too few items", (few or " Too few items to tell: the reference answered none.")[1:] + note)
    widest, bounds = max(enough, key=lambda entry: entry[1].high)
    return Verdict("no measurable loss", f"No measurable loss. {_at_most(widest, bounds)}{few}{note}")


def risks(first: int, further: int) -> tuple[float, float]:
    """Returns the p-value thresholds of first and further metrics, for at most 5 % false alarms per set in total.

    The first metrics share four fifths of that risk, the further ones the rest (weighted Bonferroni).
    """
    share = FIRST_SHARE if further else 1.0
    return share * (1 - LEVEL) / max(first, 1), (1 - share) * (1 - LEVEL) / max(further, 1)


def direction(p_value: float, loss: Interval, risk: float) -> Direction:
    """Returns a difference's direction; the permutation test must confirm the 95 % interval, which few items fool."""
    if p_value > risk or not loss.excludes_zero():
        return ""
    return "worse" if loss.low > 0 else "better"


def directed(scores: Sequence[Comparison]) -> list[Comparison]:
    """Returns the figures of all metrics, each with its direction by the verdict's rule."""
    is_first = [found.metric == TASKS[found.task][0] for found in scores]
    risk = risks(sum(is_first), len(scores) - sum(is_first))
    return [_directed(found, risk[not first]) for found, first in zip(scores, is_first, strict=True)]


def directed_groups(groups: Sequence[Comparison], scores: Sequence[Comparison]) -> list[Comparison]:
    """Returns groups with their direction, which is dropped if the first metric of their task has another or none."""
    tasks = {found.task: found.direction for found in scores if found.metric == TASKS[found.task][0]}
    found = [_directed(group, (1 - LEVEL) / len(groups)) for group in groups]
    return [
        group if group.direction == tasks.get(group.task) else msgspec.structs.replace(group, direction="")
        for group in found
    ]


def _directed(found: Comparison, risk: float) -> Comparison:
    return msgspec.structs.replace(found, direction=direction(found.p_value, found.loss(), risk))


def _judge(finding: Finding, risk: float) -> tuple[Interval, Direction]:
    """Returns the bounds of the loss (positive is worse) and its direction."""
    bounds = interval(resampled(finding.pairs))
    if not METRICS[finding.metric].lower_is_better:
        bounds = Interval(-bounds.high, -bounds.low)
    return bounds, direction(swap_test(finding.pairs), bounds, risk) if bounds.excludes_zero() else ""


def _tell_further(found: Comparison) -> str:
    title, loss = METRICS[found.metric].title, found.loss()
    if found.too_few:
        return f"Loss of {100 * abs(found.difference):.1f} points of {title} in {found.task}, in {found.items} items."
    return f"Loss of {100 * loss.low:.1f} to {100 * loss.high:.1f} points of {title} in {found.task}."


def _tell(word: str, finding: Finding, bounds: Interval) -> str:
    low, high = sorted((abs(bounds.low), abs(bounds.high)))
    title = METRICS[finding.metric].title
    if finding.too_few:
        size = f"{100 * abs(finding.pairs.difference()):.1f} points of {title} in {finding.task}"
        return f"{word} of {size}, in {finding.pairs.items} items: too few to bound it."
    return f"{word} of {100 * low:.1f} to {100 * high:.1f} points of {title} in {finding.task}."


def _at_most(finding: Finding, bounds: Interval) -> str:
    title, needed = METRICS[finding.metric].title, items_needed(finding.pairs)
    text = f"{title} in {finding.task} is at most {100 * max(bounds.high, 0):.1f} points worse"
    if needed > finding.pairs.items:
        return f"{text}; seeing a loss of one point would take {needed:,} items, there were {finding.pairs.items:,}."
    return f"{text}."


def _too_few(findings: Sequence[Finding]) -> str:
    """Says how many items tasks have and how many they need: for one point if that is above ENOUGH, else ENOUGH."""
    if not findings:
        return ""
    told = []
    for finding in findings:
        needed = items_needed(finding.pairs)
        takes = (
            f"seeing a loss of one point would take some {needed:,}"
            if needed > ENOUGH
            else f"it takes at least {ENOUGH}"
        )
        told.append(f"{finding.pairs.items} of {finding.task}, {takes}")
    return f" Too few items to tell: {'; '.join(told)}."


def _items(count: int) -> str:
    return "item" if count == 1 else "items"


@dataclass(frozen=True)
class Gate:
    """`cer>+0.5pt`: fails if a metric's loss is, with 95 % confidence, above `limit` (a fraction of one).

    With too few items, the permutation test must find a difference too, as their interval alone is not reliable.
    """

    metric: str
    limit: float

    def exceeded(self, found: Comparison) -> bool:
        """Whether the lower bound of the loss is above the limit, for a comparison of this gate's metric."""
        if found.metric != self.metric or (found.too_few and found.p_value >= 1 - LEVEL):
            return False
        return found.loss().low > self.limit


def parse_gate(text: str) -> Gate:
    """Parses `METRIC>+Xpt`, or `METRIC<-Xpt` if higher is better; raises ExportError for anything else."""
    match = _GATE.match(text)
    metric = METRICS.get(match[1]) if match else None
    if match is None or metric is None:
        fix = f"such as cer>+0.5pt or anls<-1pt; metrics: {', '.join(METRICS)}"
        raise ExportError(f"--fail-if {text!r} is not a condition", fix=fix)
    sign = 1 if metric.lower_is_better else -1
    limit = sign * float(match[3]) / 100
    if match[2] != ("><"[sign < 0]) or limit < 0:
        fix = f"{match[1]}{'>+' if sign > 0 else '<-'}{match[3].lstrip('+-')}pt"
        raise ExportError(f"--fail-if {text!r} is not a loss of {metric.title}", fix=fix)
    return Gate(match[1], limit)


def check_gates(gates: Sequence[Gate], tasks: Collection[str]) -> None:
    """Raises ExportError for a gate that could never fail because no task measures its metric."""
    measured = dict.fromkeys(metric for task in sorted(tasks) for metric in TASKS[task])
    for gate in gates:
        if gate.metric not in measured:
            problem = f"--fail-if {gate.metric}: no item of the set is measured by it"
            raise ExportError(problem, fix=f"those that are: {', '.join(measured)}")


def exceeded(report: Report, gates: Sequence[Gate]) -> list[str]:
    """Returns one line per bundle and task that exceeds a gate."""
    lines = []
    for bundle in report.bundles:
        for gate in gates:
            for found in bundle.scores:
                if gate.exceeded(found):
                    title = METRICS[gate.metric].title
                    changed = (
                        f"{100 * found.difference:+.2f} points ({100 * found.low:+.2f} to {100 * found.high:+.2f})"
                    )
                    lines.append(f"{bundle.title}: {title} in {found.task} {changed}, limit {100 * gate.limit:.2f}")
    return lines


def undecided(report: Report, gates: Sequence[Gate]) -> list[str]:
    """Returns one line per bundle and task with too few items for a gate to decide."""
    return [
        f"{bundle.title}: {METRICS[gate.metric].title} in {found.task} has {found.items} {_items(found.items)}, "
        f"too few to tell (at least {ENOUGH} are needed)"
        for bundle in report.bundles
        for gate in gates
        for found in bundle.scores
        if found.metric == gate.metric and found.too_few and not gate.exceeded(found)
    ]
