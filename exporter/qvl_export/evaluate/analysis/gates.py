"""Gates for pipelines: `--fail-if "cer>+0.5pt"`."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from qvl_runtime.common.counted import counted

from ...errors import ExportError
from ..metrics.scores import METRICS, TASKS
from .results import Comparison, Report
from .statistics import CONFIDENCE, MIN_ITEMS

_GATE = re.compile(r"\s*(\w+)\s*([<>])\s*([+-]?\d+(?:\.\d+)?)\s*(?:pt|points?|pp)?\s*$")


@dataclass(frozen=True)
class Gate:
    """`cer>+0.5pt`: fails if a metric's loss is, with 95 % confidence, above `limit` (a fraction of one).

    With too few items, the permutation test must find a difference too, as their interval alone is not reliable.
    """

    metric: str
    limit: float

    def exceeded(self, score: Comparison) -> bool:
        """Whether the lower bound of the loss is above the limit, for a comparison of this gate's metric."""
        if score.metric != self.metric or (score.too_few and score.p_value >= 1 - CONFIDENCE):
            return False
        return score.loss().low > self.limit


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
    """Raises ExportError for a gate that could never fail because no task has its metric."""
    measured = dict.fromkeys(metric for task in sorted(tasks) for metric in TASKS[task])
    for gate in gates:
        if gate.metric not in measured:
            problem = f"--fail-if {gate.metric}: no task of the set has this metric"
            raise ExportError(problem, fix=f"its metrics: {', '.join(measured)}")


def exceeded(report: Report, gates: Sequence[Gate]) -> list[str]:
    """Returns one line per bundle and task that exceeds a gate."""
    lines = []
    for bundle in report.bundles:
        for gate in gates:
            for score in bundle.scores:
                if gate.exceeded(score):
                    bounds = f"{100 * score.low:+.2f} to {100 * score.high:+.2f}"
                    changed = f"{_name(score)} {100 * score.difference:+.2f} points ({bounds})"
                    lines.append(f"{bundle.title}: {changed}, limit {100 * gate.limit:.2f}")
    return lines


def undecided(report: Report, gates: Sequence[Gate]) -> list[str]:
    """Returns one line per bundle and task with too few items for a gate to decide."""
    return [
        f"{bundle.title}: {_name(score)} has {counted(score.items, 'item')}, "
        f"too few to decide (at least {MIN_ITEMS} needed)"
        for bundle in report.bundles
        for gate in gates
        for score in bundle.scores
        if score.metric == gate.metric and score.too_few and not gate.exceeded(score)
    ]


def _name(score: Comparison) -> str:
    return f"{METRICS[score.metric].title} in {score.task}"
