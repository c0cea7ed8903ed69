"""Compares bundles with a reference on the same items: answer, then summarize. A killed comparison can be resumed."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from qvl_runtime.bundle import read_manifest
from qvl_runtime.errors import QvlError

from ..common.progress import NullProgress, Progress
from ..errors import ExportError
from ..jobs.open_pool import open_pool
from ..jobs.pool import Pool
from .analysis.machine import this_machine
from .analysis.results import Report
from .analysis.summary import summarise
from .analysis.verdict import Gate, check_gates
from .answers.models import Model, check_generation, open_models
from .answers.records import Records
from .answers.work_dir import Area
from .answers.worker import HF
from .report.output_dir import WORK, at_work
from .sets.dataset import EvalSet, open_set
from .trace.blame import Blame, BlamePlan, blame

NOISE_ITEMS = 100


@dataclass(frozen=True)
class ComparePlan:
    """What to compare, on what, and how.

    `reference` is a bundle, or with `hf` a checkpoint directory run by PyTorch; `items` is the number of items, drawn
    from the set with a fixed seed (default: all). `threads` are shared by `workers` processes (default: one per
    machine), on the Ray cluster at the address `ray` if given. The report and its work directory go into `out`. `blame`
    traces the worst item of every bundle layer by layer. `gates` must name metrics that the set measures.
    `template_args` are variables of the chat template. With `use_generation_config`, answers are sampled as the
    checkpoint recommends, otherwise greedily.
    """

    reference: Path
    bundles: tuple[Path, ...]
    data: Path
    out: Path
    items: int | None = None
    threads: int | None = None
    workers: int | None = None
    ray: str | None = None
    max_new_tokens: int | None = None
    hf: bool = False
    blame: bool = True
    gates: tuple[Gate, ...] = ()
    template_args: Mapping[str, Any] = field(default_factory=dict)
    use_generation_config: bool = False


def compare(plan: ComparePlan, progress: Progress | None = None) -> Report:
    """Answers the set with every model and compares the answers; raises ExportError, BundleError.

    `plan.out` is a new or empty directory, or a report that is resumed or replaced (see `report.output_dir`). `work/`
    stays in it; a later run with the same set, items, reference and generation settings uses its records again.
    """
    with at_work(plan.out):
        return _compare(plan, progress or NullProgress())


def _compare(plan: ComparePlan, progress: Progress) -> Report:
    progress.stage(f"checking {plan.data}")
    chosen = open_set(plan.data, plan.items)
    if plan.items and plan.items > chosen.total:
        progress.stage(f"--items {plan.items}: there are only {chosen.total}, and all are asked")
    if plan.gates:
        check_gates(plan.gates, chosen.tasks())
    reference, *others = open_models(plan.reference, plan.bundles, plan.hf)
    if plan.use_generation_config:
        check_generation([reference, *others])
    with open_pool(plan.ray) as pool:
        area = _area(plan, chosen, reference, pool, progress)
        noise = _answer_all(area, chosen, reference, others)
        machine = this_machine(area.threads, area.workers, pool.machines, _engines([reference, *others]))
    progress.stage("comparing")
    first = reference.contender(area.work, f"reference-{reference.key}")
    compared = [other.contender(area.work, other.key) for other in others]
    report = summarise(chosen, first, compared, None if plan.hf else Records(area.work, noise))
    report = msgspec.structs.replace(report, use_generation_config=plan.use_generation_config, machine=machine)
    return msgspec.structs.replace(report, blame=_blames(plan, report, progress)) if plan.blame else report


def _engines(models: Sequence[Model]) -> list[str]:
    """Returns the engines that run the models: the targets of bundles, or "hf" for PyTorch."""
    found = (HF if model.engine == HF else read_manifest(model.path).target for model in models)
    return list(dict.fromkeys(found))


def _answer_all(area: Area, chosen: EvalSet, reference: Model, others: Sequence[Model]) -> str:
    """Answers the remaining items with every model; returns the name of the noise floor's records."""
    other_count = 1 if area.threads > 1 else 2  # measures what the number of threads alone changes
    noisy, noise = chosen.subset(NOISE_ITEMS), f"{reference.key}-threads{other_count}"
    pending = [other for other in others if area.missing(other.key, chosen)]
    floor = bool(area.missing(noise, noisy)) and reference.engine != HF
    area.answer(reference, f"reference-{reference.key}", chosen, True, area.threads, bool(pending) or floor)
    _check_answered(area, reference, chosen)
    if floor:
        area.answer(reference, noise, noisy, False, other_count, True, f"{reference.title} again (noise floor)")
    for other in others:
        area.answer(other, other.key, chosen, False, area.threads, False)
    for scratch in area.work.parent.glob(f"*/{area.scratch.name}"):  # an interrupted run keeps its own to resume
        shutil.rmtree(scratch, ignore_errors=True)
    return noise


def _check_answered(area: Area, reference: Model, chosen: EvalSet) -> None:
    """Raises ExportError with the first item's error if the reference answered no item."""
    records = Records(area.work, f"reference-{reference.key}")
    if len(records) or not (failed := sorted(records.failed)):
        return
    record = records.get(failed[0])
    cause = record.error if record else ""
    raise ExportError(f"answers none of {chosen.count} items: {cause}", where=reference.path)


def _area(plan: ComparePlan, chosen: EvalSet, reference: Model, pool: Pool, progress: Progress) -> Area:
    """Returns the work directory for this set, these items, the generation settings and the reference."""
    arguments, recommends = dict(plan.template_args), plan.use_generation_config
    parts = [chosen.digest, chosen.chosen, plan.max_new_tokens, reference.key, arguments, recommends]
    key = msgspec.json.encode(parts, order="sorted")
    work = plan.out / WORK / hashlib.sha256(key).hexdigest()[:12]
    work.mkdir(parents=True, exist_ok=True)
    workers = plan.workers or pool.machines
    threads = max(1, (plan.threads or pool.cores) // workers)
    return Area(work, pool, progress, workers, threads, plan.max_new_tokens, arguments, recommends)


def _blames(plan: ComparePlan, report: Report, progress: Progress) -> dict[str, Blame]:
    """Traces every bundle's worst item layer by layer, by title; a bundle that cannot be traced is reported instead."""
    found = {}
    for path, bundle in zip(plan.bundles, report.bundles, strict=True):
        for worst in bundle.worst[:1]:
            pages, threads = (Path(worst.image),), plan.threads
            progress.stage(f"tracing the worst item of {bundle.title}, {Path(worst.image).name}, layer by layer")
            try:
                tracing = BlamePlan(
                    plan.reference,
                    path,
                    pages,
                    worst.prompt,
                    None,
                    threads,
                    plan.hf,
                    plan.template_args,
                    plan.out / WORK,
                )
                traced = blame(tracing, progress)
            except QvlError as error:
                progress.stage(f"{bundle.title} cannot be traced: {error}")
            else:
                found[bundle.title] = traced
    return found
