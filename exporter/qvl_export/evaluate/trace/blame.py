"""Finds the stage where a bundle departs from its reference: both run one input, and every stage is compared."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from qvl_runtime.media.images import check_aspect, load_pages

from ...common.progress import NullProgress, Progress
from ...common.scratch import scratch
from ...errors import ExportError
from ...jobs.pool import run_jobs
from ..answers.model_keys import model_keys
from ..answers.worker import HF
from .expose_graph import STREAM, copied, streams
from .tap_files import Taps, file_name
from .worker import LOGITS, TapJob

TAPPING = "qvl_export.evaluate.trace.worker"
OUTLIER = 4.0
"""A stage stands out if it adds more than this many times the median noise of the others."""
AUDIBLE = 1e-2
"""Noise-to-signal ratio (20 dB) below which no stage is blamed."""
SMOOTHED = ("up_proj", "v_proj", "qkv")
"""Linears whose output channels smoothing may divide, and the next linears multiply again (see `graph.folds`)."""
TINY = 1e-30
BROKEN = -300.0
"""SQNR in decibels that stands for values that are not finite."""
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class BlamePlan:
    """Two models and one input; `into` names a stage whose linears are compared too; `hf`: PyTorch is the reference.

    `template_args` are variables of the chat template. Temporary files go into `work`, by default into the system's
    temporary directory.
    """

    reference: Path
    bundle: Path
    images: tuple[Path, ...]
    prompt: str
    into: str | None = None
    threads: int | None = None
    hf: bool = False
    template_args: Mapping[str, Any] = field(default_factory=dict)
    work: Path | None = None


class Likeness(msgspec.Struct, frozen=True):
    """Cosine over all values, and SQNR = 10 · log₁₀(‖y‖² / ‖y − ŷ‖²) in decibels, None if they are equal."""

    cosine: float
    sqnr: float | None


class Stage(msgspec.Struct, frozen=True):
    """A stage of the chain: similarity over all tokens, over image tokens and over text tokens, None if it has none.

    `added` is the increase of the noise-to-signal ratio over the previous stage.
    """

    name: str
    all: Likeness
    vision: Likeness | None
    text: Likeness | None
    added: float = 0.0


class Blame(msgspec.Struct, frozen=True):
    """`first_drop` is the first stage that adds much more noise than the others, or None if the loss is even.

    `first_linear` is the first of the `linears` whose noise is comparable to that of the noisiest one.
    """

    reference: str
    bundle: str
    prompt: str
    images: list[str]
    first_drop: str | None
    largest: str | None
    summary: str
    stages: list[Stage]
    linears: list[Stage] = []
    first_linear: str | None = None


def blame(plan: BlamePlan, progress: Progress | None = None) -> Blame:
    """Runs the reference, then the bundle, each in its own process, and compares; raises ExportError, BundleError."""
    progress = progress or NullProgress()
    _check(plan)
    with scratch(plan.work) as directory:
        taps = [_tapped(plan, name, directory, progress) for name in ("reference", "bundle")]
        _check_alike(plan, *taps)
        both = [name for name in taps[1].stages if name in taps[0].stages]
        found = [_stage(directory, name, taps[1]) for name in both]
    inner = [stage for stage in found if "/" in stage.name]
    return judge(plan, with_added([stage for stage in found if "/" not in stage.name]), inner)


def _check(plan: BlamePlan) -> None:
    """Raises every error that can be found before a model runs, which takes minutes."""
    if plan.into and plan.hf:
        raise ExportError("--into looks into graphs, not into PyTorch", fix="compare with a bundle of fp32")
    if plan.into and not STREAM.fullmatch(plan.into):
        raise ExportError(f"--into {plan.into!r} is not a stage", fix="such as llm.layers.2 or vision.blocks.0")
    model_keys(plan.reference, (plan.bundle,), plan.hf)
    for bundle in (plan.bundle,) if plan.hf else (plan.reference, plan.bundle):
        if plan.into not in (None, *(found := streams(bundle))):
            raise ExportError(f"there is no stage {plan.into}", where=bundle, fix=f"one of {', '.join(found)}")
    for image in plan.images:
        check_aspect(load_pages(image), image)


def _tapped(plan: BlamePlan, name: str, directory: Path, progress: Progress) -> Taps:
    """Runs the model `name` ("reference" or "bundle") in its own process, which writes arrays to a folder `name`."""
    model = plan.reference if name == "reference" else plan.bundle
    progress.stage(f"running {model}")
    engine = HF if plan.hf and name == "reference" else "bundle"
    out = directory / name
    out.mkdir()
    images, arguments = tuple(map(str, plan.images)), dict(plan.template_args)
    with copied(model, out) if engine != HF else contextlib.nullcontext(out) as copy:
        job = TapJob(str(model), engine, images, plan.prompt, str(out), plan.threads, plan.into, arguments, str(copy))
        run_jobs(TAPPING, [job], lambda _: None)
    return msgspec.json.decode((out / "taps.json").read_bytes(), type=Taps)


def _check_alike(plan: BlamePlan, reference: Taps, other: Taps) -> None:
    if (reference.tokens, reference.image_tokens) != (other.tokens, other.image_tokens):
        raise ExportError(
            f"the prompt is {reference.tokens} tokens to {plan.reference} and {other.tokens} to {plan.bundle}",
            fix="compare bundles of one checkpoint with the same pixel bounds",
        )


def _stage(directory: Path, name: str, taps: Taps) -> Stage:
    """Compares one stage of both models, read from their arrays."""
    one, two = (np.load(directory / model / f"{file_name(name)}.npy") for model in ("reference", "bundle"))
    if one.shape != two.shape:
        raise ExportError(f"stage {name} has shapes {one.shape} and {two.shape}", fix="compare bundles of one model")
    if name.endswith(SMOOTHED) and np.isfinite(two).all():
        two = evened(one, two)
    if not name.startswith(("llm.", LOGITS)):
        return Stage(name, likeness(one, two), likeness(one, two), None)
    of_image = np.zeros(len(one), dtype=bool)
    of_image[taps.image_tokens] = True
    vision, text = (likeness(one[rows], two[rows]) if rows.any() else None for rows in (of_image, ~of_image))
    return Stage(name, likeness(one, two), vision, text)


def evened(reference: Floats, other: Floats) -> Floats:
    """Scales each channel of `other` to fit the reference best (least squares), with factors of geometric mean 1.

    Factors that smoothing moves to the next linear are not noise; an error of the scale as a whole remains.
    """
    factors = (reference * other).sum(axis=0) / np.maximum(np.square(other).sum(axis=0), TINY)
    known = factors > 0
    factors[known] /= np.exp(np.log(factors[known]).mean()) if known.any() else 1
    return np.asarray(other * np.where(known, factors, 1), np.float32)


def likeness(reference: Floats, other: Floats) -> Likeness:
    """Compares all values of [tokens, features]; if one is not finite, cosine is 0 and SQNR is `BROKEN`."""
    with np.errstate(invalid="ignore"):  # ∞ − ∞
        y, noise = reference.astype(np.float64), other.astype(np.float64) - reference
    signal, error = float((y * y).sum()), float((noise * noise).sum())
    if not math.isfinite(signal + error):
        return Likeness(0.0, BROKEN)
    norms = math.sqrt(signal) * float(np.linalg.norm(other.astype(np.float64)))
    cosine = float((y * other).sum()) / norms if norms else float(error == 0)
    sqnr = None if error == 0 else 10 * math.log10(max(signal, 1e-300) / error)
    return Likeness(round(cosine, 9), None if sqnr is None else round(sqnr, 3))


def noise_ratio(found: Likeness | None) -> float:
    """Returns the noise-to-signal power ratio; 0 if equal."""
    return 0.0 if found is None or found.sqnr is None else 10 ** (-found.sqnr / 10)


def with_added(stages: Sequence[Stage]) -> list[Stage]:
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
    """Returns the first stage that adds more than AUDIBLE, OUTLIER × the median, and 1/OUTLIER of the largest."""
    *others, most = sorted(stage.added for stage in stages if stage.added > 0) or [0.0]
    usual = float(np.median(others)) if others else 0.0
    limit = max(OUTLIER * usual, most / OUTLIER, AUDIBLE)
    return next((stage.name for stage in stages if stage.added > limit), None)


def first_linear(linears: Sequence[Stage]) -> str | None:
    """Returns the first linear in run order with more noise than AUDIBLE and 1/OUTLIER of the largest.

    Later linears inherit its noise.
    """
    noises = [noise_ratio(linear.all) for linear in linears]
    limit = max(max(noises, default=0.0) / OUTLIER, AUDIBLE)
    return next((linear.name for linear, noise in zip(linears, noises, strict=True) if noise > limit), None)


def judge(plan: BlamePlan, stages: list[Stage], inner: list[Stage]) -> Blame:
    """Names the first stages and linears that drop, and summarizes."""
    drop = first_drop(stages)
    most = max(stages, key=lambda stage: stage.added)
    largest = most.name if most.added > 0 else None
    linear = first_linear(inner)
    return Blame(
        str(plan.reference),
        str(plan.bundle),
        plan.prompt,
        [str(image) for image in plan.images],
        drop,
        largest,
        _summary(drop, most, stages) + _inside(linear),
        stages,
        inner,
        linear,
    )


def _summary(drop: str | None, most: Stage, stages: Sequence[Stage]) -> str:
    end = stages[-1]
    if end.all.sqnr is None:
        return "no stage differs from the reference."
    if end.all.sqnr == BROKEN:
        return f"the first stage that drops is {drop}; the logits are not finite."
    tail = f"the logits are {end.all.sqnr:.1f} dB above their difference."
    if drop is None and most.added < AUDIBLE:
        return f"no stage adds more noise than 20 dB below the signal; {tail}"
    if drop is None:
        return f"no stage stands out, the loss builds up evenly (most in {most.name}); {tail}"
    return f"the first stage that drops is {drop}; {tail}"


def _inside(linear: str | None) -> str:
    if linear is None:
        return ""
    stage, name = linear.split("/")
    return f" Of the linears of {stage}, {name} drops first."


def describe(found: Blame) -> str:
    """Formats the result as a text table."""
    lines = [f"{'stage':24} {'cosine':>10} {'SQNR dB':>9} {'vision':>9} {'text':>9}"]
    for stage in [*found.stages, *found.linears]:
        name = re.sub(r"^.*/", "  ", stage.name)
        mark = "  ← first drop" if stage.name in (found.first_drop, found.first_linear) else ""
        parts = " ".join(f"{_decibels(part):>9}" for part in (stage.all, stage.vision, stage.text))
        lines.append(f"{name:24} {stage.all.cosine:10.6f} {parts}{mark}")
        if stage is found.stages[-1] and found.linears:
            lines.append(f"linears of {found.linears[0].name.split('/')[0]}")
    return "\n".join([*lines, found.summary])


def _decibels(part: Likeness | None) -> str:
    return "" if part is None else "equal" if part.sqnr is None else f"{part.sqnr:.1f}"
