"""Finds the stage and the linear where a bundle departs from its reference, from the similarity of every stage."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec
import numpy as np

from .similarity import NOT_FINITE, Similarity, noise_ratio

OUTLIER = 4.0
"""A stage stands out if it adds more than this many times the median noise of the others."""
NOISE_FLOOR = 1e-2
"""Noise-to-signal ratio (−20 dB) below which no stage is blamed."""


class Stage(msgspec.Struct, frozen=True):
    """A stage of the chain: similarity over all tokens, over image tokens and over text tokens, None if it has none.

    `added` is the increase of the noise-to-signal ratio over the previous stage.
    """

    name: str
    all: Similarity
    vision: Similarity | None
    text: Similarity | None
    added: float = 0.0


class Diagnosis(msgspec.Struct, frozen=True):
    """`first_drop` is the first stage that adds much more noise than the others, or None if noise grows evenly.

    `largest` is the stage that adds most, None if all stages are equal. `first_linear` is the first linear whose noise
    is comparable to that of the noisiest one.
    """

    first_drop: str | None
    largest: str | None
    first_linear: str | None
    summary: str


def with_added_noise(stages: Sequence[Stage]) -> list[Stage]:
    """Returns stages with `added`: the larger increase, of vision or text tokens, over the previous stage."""
    result: list[Stage] = []
    before = {"vision": 0.0, "text": 0.0}
    for stage in stages:
        now = {part: noise_ratio(getattr(stage, part)) for part in before}
        added = max(now[part] - before[part] for part in before if getattr(stage, part))
        result.append(msgspec.structs.replace(stage, added=max(added, 0.0)))
        before = {part: now[part] if getattr(stage, part) else before[part] for part in before}
    return result


def first_drop(stages: Sequence[Stage]) -> str | None:
    """Returns the first stage that adds more than NOISE_FLOOR, OUTLIER × the median, and 1/OUTLIER of the largest."""
    *others, most = sorted(stage.added for stage in stages if stage.added > 0) or [0.0]
    usual = float(np.median(others)) if others else 0.0
    limit = max(OUTLIER * usual, most / OUTLIER, NOISE_FLOOR)
    return next((stage.name for stage in stages if stage.added > limit), None)


def first_linear(linears: Sequence[Stage]) -> str | None:
    """Returns the first linear in run order with more noise than NOISE_FLOOR and 1/OUTLIER of the largest.

    Later linears inherit its noise.
    """
    noises = [noise_ratio(linear.all) for linear in linears]
    limit = max(max(noises, default=0.0) / OUTLIER, NOISE_FLOOR)
    return next((linear.name for linear, noise in zip(linears, noises, strict=True) if noise > limit), None)


def diagnose(stages: Sequence[Stage], linears: Sequence[Stage] = ()) -> Diagnosis:
    """Finds the first stage and the first linear that drop, and summarizes them."""
    drop = first_drop(stages)
    most = max(stages, key=lambda stage: stage.added)
    linear = first_linear(linears)
    summary = _summary(drop, most, stages) + _linear_summary(linear)
    return Diagnosis(drop, most.name if most.added > 0 else None, linear, summary)


def _summary(drop: str | None, most: Stage, stages: Sequence[Stage]) -> str:
    end = stages[-1]
    if end.all.sqnr is None:
        return "no stage differs from the reference."
    if end.all.sqnr == NOT_FINITE:
        return f"the first drop is at {drop}; the logits are not finite."
    tail = f"SQNR of the logits: {end.all.sqnr:.1f} dB."
    if drop is None and most.added < NOISE_FLOOR:
        return f"no stage adds noise above −20 dB; {tail}"
    if drop is None:
        return f"no stage stands out, noise grows evenly (most in {most.name}); {tail}"
    return f"the first drop is at {drop}; {tail}"


def _linear_summary(linear: str | None) -> str:
    if linear is None:
        return ""
    stage, name = linear.split("/")
    return f" Among the linears of {stage}, the first drop is at {name}."


def stage_table(stages: Sequence[Stage], linears: Sequence[Stage], drops: Sequence[str | None]) -> str:
    """Formats stages, and below them the linears of one stage, as a text table; marks those in `drops`."""
    lines = [f"{'stage':24} {'cosine':>10} {'SQNR dB':>9} {'vision':>9} {'text':>9}"]
    lines += [_row(stage, drops) for stage in stages]
    if linears:
        lines.append(f"linears of {linears[0].name.split('/')[0]}")
    return "\n".join([*lines, *(_row(linear, drops) for linear in linears)])


def _row(stage: Stage, drops: Sequence[str | None]) -> str:
    name = re.sub(r"^.*/", "  ", stage.name)
    mark = "  ← first drop" if stage.name in drops else ""
    parts = " ".join(f"{_decibels(part):>9}" for part in (stage.all, stage.vision, stage.text))
    return f"{name:24} {stage.all.cosine:10.6f} {parts}{mark}"


def _decibels(part: Similarity | None) -> str:
    return "" if part is None else "equal" if part.sqnr is None else f"{part.sqnr:.1f}"
