"""Finds the stage where a bundle departs from its reference: both run one input, and every stage is compared."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from qvl_runtime.media.images import check_aspect, load_pages

from ...common.progress import NullProgress, Progress
from ...common.scratch import scratch
from ...errors import ExportError
from ...jobs.pool import run_jobs
from ..answers.answerers import HF
from ..answers.engine_checks import check_engines
from ..answers.model_keys import model_keys
from .diagnosis import Stage, diagnose, stage_table, with_added_noise
from .expose_graph import STREAM, copy_directory, residual_streams
from .similarity import similarity, undo_smoothing
from .trace_files import TRACE_FILE, TraceInfo, file_name
from .worker import LOGITS, TraceJob

WORKER_MODULE = "qvl_export.evaluate.trace.worker"
SMOOTHED = ("up_proj", "v_proj", "qkv")
"""Linears whose output channels smoothing may divide, and the next linears multiply again (see `graph.folds`)."""


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


class Blame(msgspec.Struct, frozen=True):
    """The result: every stage and linear, and the fields of `Diagnosis`."""

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
        reference, other = (_trace(plan, name, directory, progress) for name in ("reference", "bundle"))
        _check_same_prompt(plan, reference, other)
        names = [name for name in other.stages if name in reference.stages]
        compared = [_compare_stage(directory, name, other) for name in names]
    stages = with_added_noise([stage for stage in compared if "/" not in stage.name])
    linears = [stage for stage in compared if "/" in stage.name]
    found = diagnose(stages, linears)
    return Blame(
        str(plan.reference),
        str(plan.bundle),
        plan.prompt,
        [str(image) for image in plan.images],
        found.first_drop,
        found.largest,
        found.summary,
        stages,
        linears,
        found.first_linear,
    )


def _check(plan: BlamePlan) -> None:
    """Raises every error that can be found before a model runs, which takes minutes."""
    if plan.into and plan.hf:
        raise ExportError("--into cannot be combined with --reference hf", fix="use an fp32 bundle as the reference")
    if plan.into and not STREAM.fullmatch(plan.into):
        raise ExportError(f"--into {plan.into!r} is not a stage", fix="such as llm.layers.2 or vision.blocks.0")
    model_keys(plan.reference, (plan.bundle,), plan.hf)
    bundles = (plan.bundle,) if plan.hf else (plan.reference, plan.bundle)
    for bundle in bundles:
        if plan.into not in (None, *(found := residual_streams(bundle))):
            raise ExportError(f"has no stage {plan.into}", where=bundle, fix=f"one of {', '.join(found)}")
    for image in plan.images:
        check_aspect(load_pages(image), image)
    check_engines(bundles)


def _trace(plan: BlamePlan, name: str, directory: Path, progress: Progress) -> TraceInfo:
    """Runs the model `name` ("reference" or "bundle") in its own process, which writes arrays to a folder `name`."""
    model = plan.reference if name == "reference" else plan.bundle
    progress.stage(f"running {model}")
    engine = HF if plan.hf and name == "reference" else "bundle"
    out = directory / name
    out.mkdir()
    images, arguments = tuple(map(str, plan.images)), dict(plan.template_args)
    with copy_directory(model, out) if engine != HF else contextlib.nullcontext(out) as copy:
        job = TraceJob(str(model), engine, images, plan.prompt, str(out), plan.threads, plan.into, arguments, str(copy))
        run_jobs(WORKER_MODULE, [job], lambda _: None)
    return msgspec.json.decode((out / TRACE_FILE).read_bytes(), type=TraceInfo)


def _check_same_prompt(plan: BlamePlan, reference: TraceInfo, other: TraceInfo) -> None:
    if (reference.tokens, reference.image_tokens) != (other.tokens, other.image_tokens):
        raise ExportError(
            f"the prompt has {reference.tokens} tokens in {plan.reference} and {other.tokens} in {plan.bundle}",
            fix="compare bundles of the same checkpoint with the same pixel bounds",
        )


def _compare_stage(directory: Path, name: str, info: TraceInfo) -> Stage:
    """Compares one stage of both models, read from their arrays."""
    one, two = (np.load(directory / model / f"{file_name(name)}.npy") for model in ("reference", "bundle"))
    if one.shape != two.shape:
        raise ExportError(
            f"stage {name} has shapes {one.shape} and {two.shape}", fix="compare bundles of the same checkpoint"
        )
    if name.endswith(SMOOTHED) and np.isfinite(two).all():
        two = undo_smoothing(one, two)
    whole = similarity(one, two)
    if not name.startswith(("llm.", LOGITS)):
        return Stage(name, whole, whole, None)
    is_image = np.zeros(len(one), dtype=bool)
    is_image[info.image_tokens] = True
    vision, text = (similarity(one[rows], two[rows]) if rows.any() else None for rows in (is_image, ~is_image))
    return Stage(name, whole, vision, text)


def describe(found: Blame) -> str:
    """Formats the result as a text table with its summary."""
    table = stage_table(found.stages, found.linears, [found.first_drop, found.first_linear])
    return f"{table}\n{found.summary}"
