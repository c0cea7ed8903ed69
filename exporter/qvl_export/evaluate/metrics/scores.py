"""Scores of answers: one fraction (numerator, denominator) per item and metric.

A metric over a set is the sum of numerators / the sum of denominators: in CER, pages weigh by their length
(micro-average), and statistics can resample items of any metric. Formulas are in docs/report.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rapidfuzz.distance import Levenshtein

from . import teds as tables
from .boxes import PageGeometry, intersection_over_union, parse_boxes
from .text_normalisation import normal, squeeze

Fraction = tuple[float, float]
Paths = dict[tuple[int, str], int]
"""The number of a JSON path by (number of its parent path, last key); the root is −1."""
ANLS_THRESHOLD = 0.5
HIT_IOU = 0.5
_CJK = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_CJK}]|[^\s{_CJK}]+")
_TOOL_CALL = re.compile(r"<tool_call>(.*?)(?:</tool_call>|$)", re.DOTALL)
_FENCE = re.compile(r"^```\w*")


@dataclass(frozen=True)
class Metric:
    """A metric's name in tables, and whether lower is better. All are fractions of one, shown as percent."""

    title: str
    lower_is_better: bool = False

    def loss(self, reference: float, other: float) -> float:
        """Returns how much worse `other` is, in the metric's unit."""
        return other - reference if self.lower_is_better else reference - other


METRICS = {
    "cer": Metric("CER", lower_is_better=True),
    "cer_nospace": Metric("CER without spaces", lower_is_better=True),
    "wer": Metric("WER", lower_is_better=True),
    "exact": Metric("Exact match"),
    "anls": Metric("ANLS"),
    "field_f1": Metric("Field F1"),
    "teds": Metric("TEDS"),
    "teds_s": Metric("TEDS-S"),
    "iou": Metric("Mean IoU"),
    "acc50": Metric("Acc@0.5"),
    "parsed": Metric("Boxes parsed"),
    "tool": Metric("Tool call match"),
}
TASKS: dict[str, tuple[str, ...]] = {
    "ocr": ("cer", "cer_nospace", "wer", "exact"),
    "qa": ("anls", "exact", "cer"),
    "kie": ("field_f1",),
    "table": ("teds", "teds_s"),
    "grounding": ("iou", "acc50", "parsed"),
    "tool": ("tool",),
}
"""The metrics of each task; the first decides its verdict."""
NEEDED = {
    "kie": "a JSON object with a value",
    "grounding": 'JSON such as [{"bbox_2d": [0, 0, 9, 9]}]',
    "tool": 'JSON such as {"name": "pay", "arguments": {}}',
}


def score(task: str, answer: str, truths: Sequence[str], page: PageGeometry) -> dict[str, Fraction]:
    """Returns every metric of the task for one answer; if there are several truths, the best match counts."""
    return {name: _SCORERS[name](answer, truths, page) for name in TASKS[task]}


def truth_problem(task: str, truth: str) -> str:
    """Returns why the task's metrics cannot use a label's answer, as ` (the reason)`; empty if they can."""
    if task == "table":
        return f" ({problem})" if (problem := tables.truth_problem(truth)) else ""
    if task == "kie":
        usable = bool(fields(truth, {}))
    elif task == "grounding":
        usable = bool(parse_boxes(truth, PageGeometry.original((1, 1))))
    else:
        usable = tool_calls(truth) is not None if task == "tool" else bool(normal(truth))
    return "" if usable else f" ({NEEDED.get(task, 'it is empty')})"


def words(text: str) -> list[str]:
    """Splits a text into runs of non-blank characters; every ideograph or kana is a word of its own."""
    return _WORD.findall(normal(text))


def characters(text: str) -> str:
    """Returns the text without blanks."""
    return "".join(normal(text).split())


def error_rate(answer: str, truths: Sequence[str], units: Callable[[str], Sequence[str]]) -> Fraction:
    """Returns (Levenshtein distance, length of the truth) in units, for the truth with the lowest rate."""
    given = units(answer)
    pairs = [(float(Levenshtein.distance(given, truth)), float(len(truth))) for truth in map(units, truths)]
    return min(pairs, key=lambda pair: pair[0] / max(pair[1], 1))


def anls(answer: str, truths: Sequence[str]) -> float:
    """Returns the ANLS term of one answer (Biten et al. 2019): 1 − normalized Levenshtein distance, 0 if that is ≥ 0.5.

    The truth nearest to the answer counts; case and runs of blanks are ignored.
    """
    given = squeeze(answer).lower()
    least = min(Levenshtein.normalized_distance(given, squeeze(truth).lower()) for truth in truths)
    return 1 - least if least < ANLS_THRESHOLD else 0.0


def field_f1(answer: str, truth: str) -> Fraction:
    """Returns (2 · equal fields, fields of both): summed over items, the micro-averaged F1. Not JSON: no fields."""
    paths: Paths = {}
    given, wanted = fields(answer, paths), fields(truth, paths)
    equal = sum(given.get(path) == value for path, value in wanted.items())
    return 2.0 * equal, float(len(given) + len(wanted))


def fields(text: str, paths: Paths) -> dict[int, str]:
    """Returns the leaves of the JSON object in an answer by path; empty leaves are not fields.

    Paths are numbers from `paths`, because a hostile answer could repeat a long key before every leaf.
    """
    parsed = _json(text)
    found: dict[int, str] = {}
    left: list[tuple[int, Any]] = [(-1, parsed)] if isinstance(parsed, dict) else []
    while left:
        path, value = left.pop()
        if isinstance(value, dict | list):
            inner = value.items() if isinstance(value, dict) else enumerate(value)
            left += [(paths.setdefault((path, str(key)), len(paths)), item) for key, item in inner]
        elif value not in (None, ""):
            found[path] = squeeze(str(value))
    return found


def tool_calls(text: str) -> list[tuple[str, Any]] | None:
    """Returns name and arguments of every call, in order; None if one is not JSON with both."""
    bodies = _TOOL_CALL.findall(text) or [text]
    calls = []
    for body in bodies:
        call = _json(body)
        if not isinstance(call, dict) or "name" not in call or "arguments" not in call:
            return None
        calls.append((str(call["name"]), call["arguments"]))
    return calls


def matched_ious(answer: str, truth: str, page: PageGeometry) -> tuple[list[float], bool]:
    """Returns the IoU of every true box with its matched box (best pairs first), and whether a box was parsed.

    Only the first n boxes of the answer count, for n true boxes; a true box without a match has IoU 0.
    """
    wanted = parse_boxes(truth, PageGeometry.original(page.size))
    given = parse_boxes(answer, page)
    free, left = given[: len(wanted)], list(range(len(wanted)))
    ious = [0.0] * len(wanted)
    pairs = sorted(((intersection_over_union(wanted[t], box), t, b) for t in left for b, box in enumerate(free)))
    used: set[int] = set()
    for iou, t, b in reversed(pairs):
        if t in left and b not in used:
            ious[t] = iou
            left.remove(t)
            used.add(b)
    return ious, bool(given)


def _json(text: str) -> Any:
    """Returns the JSON value of an answer, also from within a code fence; None if there is none."""
    bare = _FENCE.sub("", text.strip(), count=1).removesuffix("```")
    try:
        return json.loads(bare)
    except (ValueError, RecursionError):
        pass
    try:  # words around it
        return json.loads(bare[bare.index("{") : bare.rindex("}") + 1])
    except (ValueError, RecursionError):
        return None


def _exact(answer: str, truths: Sequence[str], _: PageGeometry) -> Fraction:
    return float(any(normal(answer) == normal(truth) for truth in truths)), 1.0


def _tool(answer: str, truths: Sequence[str], _: PageGeometry) -> Fraction:
    given = tool_calls(answer)
    return float(given is not None and any(given == tool_calls(truth) for truth in truths)), 1.0


def _best_ious(answer: str, truths: Sequence[str], page: PageGeometry) -> list[float]:
    """Returns the IoUs with the truth whose mean IoU is highest."""
    return max((matched_ious(answer, truth, page)[0] for truth in truths), key=lambda ious: sum(ious) / len(ious))


def _iou(answer: str, truths: Sequence[str], page: PageGeometry) -> Fraction:
    ious = _best_ious(answer, truths, page)
    return sum(ious), float(len(ious))


def _acc50(answer: str, truths: Sequence[str], page: PageGeometry) -> Fraction:
    ious = _best_ious(answer, truths, page)
    return float(sum(iou >= HIT_IOU for iou in ious)), float(len(ious))


_Scorer = Callable[[str, Sequence[str], PageGeometry], Fraction]
_SCORERS: dict[str, _Scorer] = {
    "cer": lambda answer, truths, _: error_rate(answer, truths, normal),
    "cer_nospace": lambda answer, truths, _: error_rate(answer, truths, characters),
    "wer": lambda answer, truths, _: error_rate(answer, truths, words),
    "exact": _exact,
    "anls": lambda answer, truths, _: (anls(answer, truths), 1.0),
    "field_f1": lambda answer, truths, _: max((field_f1(answer, truth) for truth in truths), key=lambda f: f[0] / f[1]),
    "teds": lambda answer, truths, _: (max(tables.teds(answer, truth) for truth in truths), 1.0),
    "teds_s": lambda answer, truths, _: (max(tables.teds(answer, truth, False) for truth in truths), 1.0),
    "iou": _iou,
    "acc50": _acc50,
    "parsed": lambda answer, truths, page: (float(matched_ious(answer, truths[0], page)[1]), 1.0),
    "tool": _tool,
}
