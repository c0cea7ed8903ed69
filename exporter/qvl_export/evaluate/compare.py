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
from qvl_runtime.common.counted import counted
from qvl_runtime.errors import QvlError

from ..common.progress import NullProgress, Progress
from ..errors import ExportError
from ..jobs.open_pool import open_pool
from ..jobs.pool import Pool
from .analysis.gates import Gate, check_gates
from .analysis.machine import this_machine
from .analysis.results import Report, WorstItem
from .analysis.summary import summarize
from .answers.answer_runner import AnswerRunner
from .answers.answerers import ENDPOINT, HF
from .answers.endpoint_names import Endpoint
from .answers.engine_checks import check_engines
from .answers.models import BUNDLE, Model, check_generation, open_models
from .answers.records import Records
from .report.output_dir import WORK, locked_output
from .sets.dataset import EvalSet, open_set
from .trace.blame import Blame, BlamePlan, blame

NOISE_ITEMS = 100
"""Most items on which the noise floor is measured."""


@dataclass(frozen=True)
class ComparePlan:
    """Which models to compare, on which items, and how.

    `reference` is a bundle, or with `hf` a checkpoint directory run by PyTorch; names of bundles may have options, such
    as `int4@prune=scan`. `items` is the number of items, drawn
    from the set with a fixed seed (default: all). `threads` are shared by `workers` processes (default: one per
    machine), on the Ray cluster at the address `ray` if given. The report and its work directory go into `out`. `blame`
    traces the worst item of every bundle layer by layer. `gates` must name metrics that the set measures.
    `template_args` are variables of the chat template. With `use_generation_config`, answers are sampled as the
    checkpoint recommends, otherwise greedily. `endpoints` are servers, further columns that answer greedily.
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
    endpoints: tuple[Endpoint, ...] = ()


def compare(plan: ComparePlan, progress: Progress | None = None) -> Report:
    """Answers the set with every model and compares the answers; raises ExportError, BundleError.

    `plan.out` is a new or empty directory, or a report that is resumed or replaced (see `report.output_dir`). `work/`
    stays in it; a later run with the same set, items, reference and generation settings reuses its records.
    """
    with locked_output(plan.out):
        return _compare(plan, progress or NullProgress())


def _compare(plan: ComparePlan, progress: Progress) -> Report:
    progress.stage(f"checking {plan.data}")
    dataset = _open_dataset(plan, progress)
    reference, *others = models = open_models(plan.reference, plan.bundles, plan.hf, plan.endpoints)
    if plan.endpoints and plan.use_generation_config:
        raise ExportError("servers answer greedily", fix="leave --use-generation-config or --endpoint out")
    if plan.use_generation_config:
        check_generation(models)
    with open_pool(plan.ray) as pool:
        runner = _answer_runner(plan, dataset, reference, pool, progress)
        noise = _answer_all(runner, dataset, reference, others, here=plan.ray is None)
        machine = this_machine(runner.threads, runner.workers, pool.machines, _engines(models))
    progress.stage("comparing")
    first = reference.result(runner.directory, _reference_name(reference))
    results = [other.result(runner.directory, other.key) for other in others]
    report = summarize(dataset, first, results, None if plan.hf else Records(runner.directory, noise))
    report = msgspec.structs.replace(report, use_generation_config=plan.use_generation_config, machine=machine)
    return msgspec.structs.replace(report, blame=_blame_all(plan, models, report, progress)) if plan.blame else report


def _open_dataset(plan: ComparePlan, progress: Progress) -> EvalSet:
    """Checks the set and draws the items; raises ExportError, also for gates on metrics that it does not measure."""
    dataset = open_set(plan.data, plan.items)
    if plan.items and plan.items > dataset.total:
        progress.stage(f"--items {plan.items}: the set has only {counted(dataset.total, 'item')}; all are evaluated")
    if plan.gates:
        check_gates(plan.gates, dataset.tasks())
    return dataset


def _engines(models: Sequence[Model]) -> list[str]:
    """Returns the engines that run the models: the targets of bundles, or "hf" for PyTorch."""
    run_here = [model for model in models if model.engine != ENDPOINT]
    found = (HF if model.engine == HF else read_manifest(model.path).target for model in run_here)
    return list(dict.fromkeys(found))


def _reference_name(reference: Model) -> str:
    """Returns the name of the reference's records."""
    return f"reference-{reference.key}"


def _answer_all(runner: AnswerRunner, dataset: EvalSet, reference: Model, others: Sequence[Model], here: bool) -> str:
    """Answers the remaining items with every model; returns the name of the noise floor's records.

    `here` says that models run on this machine, whose engines are then checked first.
    """
    other_threads = 1 if runner.threads > 1 else 2  # measures the effect of the number of threads alone
    subset, noise = dataset.subset(NOISE_ITEMS), f"{reference.key}-threads{other_threads}"
    pending = [other for other in others if runner.missing(other.key, dataset)]
    measures_noise = bool(runner.missing(noise, subset)) and reference.engine != HF
    needs_distributions = bool(pending) or measures_noise
    if here:
        runs_reference = needs_distributions or runner.missing(_reference_name(reference), dataset)
        running = [*([reference] if runs_reference else []), *pending]
        check_engines(model.path for model in running if model.engine == BUNDLE)
    runner.answer(reference, _reference_name(reference), dataset, runner.threads, True, needs_distributions)
    _check_answered(runner, reference, dataset)
    if measures_noise:
        title = f"{reference.title} again (noise floor)"
        runner.answer(reference, noise, subset, other_threads, even_if_complete=True, title=title)
    for other in others:
        runner.answer(other, other.key, dataset, runner.threads)
    for scratch in runner.directory.parent.glob(f"*/{runner.scratch.name}"):  # interrupted runs keep theirs to resume
        shutil.rmtree(scratch, ignore_errors=True)
    return noise


def _check_answered(runner: AnswerRunner, reference: Model, dataset: EvalSet) -> None:
    """Raises ExportError with the first item's error if the reference answered no item."""
    records = Records(runner.directory, _reference_name(reference))
    if len(records) or not (failed := sorted(records.failed)):
        return
    record = records.get(failed[0])
    cause = record.error if record else ""
    raise ExportError(f"failed on all {counted(dataset.count, 'item')}: {cause}", where=reference.path)


def _answer_runner(
    plan: ComparePlan, dataset: EvalSet, reference: Model, pool: Pool, progress: Progress
) -> AnswerRunner:
    """Returns a runner with the work directory of this set, these items, the generation settings and the reference."""
    arguments, recommends = dict(plan.template_args), plan.use_generation_config
    parts = [dataset.digest, dataset.chosen, plan.max_new_tokens, reference.key, arguments, recommends]
    key = msgspec.json.encode(parts, order="sorted")
    directory = plan.out / WORK / hashlib.sha256(key).hexdigest()[:12]
    directory.mkdir(parents=True, exist_ok=True)
    workers = plan.workers or pool.machines
    threads = max(1, (plan.threads or pool.cores) // workers)
    return AnswerRunner(directory, pool, progress, workers, threads, plan.max_new_tokens, arguments, recommends)


def _blame_all(plan: ComparePlan, models: Sequence[Model], report: Report, progress: Progress) -> dict[str, Blame]:
    """Traces every bundle's worst item layer by layer, by title; reports bundles that cannot be traced.

    Traces see whole pages. A bundle that prunes otherwise than the reference would be compared on other input.
    """
    found = {}
    reference, *others = models
    for model, bundle in zip(others, report.bundles, strict=True):
        if model.engine == ENDPOINT:
            continue
        if model.rule() != reference.rule():
            progress.stage(f"{bundle.title} is not traced: it leaves out other parts of pages than the reference")
            continue
        for worst in bundle.worst[:1]:
            progress.stage(f"tracing the worst item of {bundle.title}, {Path(worst.image).name}, layer by layer")
            try:
                traced = blame(_blame_plan(plan, reference.path, model.path, worst), progress)
            except QvlError as error:
                progress.stage(f"{bundle.title} cannot be traced: {error}")
            else:
                found[bundle.title] = traced
    return found


def _blame_plan(plan: ComparePlan, reference: Path, bundle: Path, item: WorstItem) -> BlamePlan:
    return BlamePlan(
        reference,
        bundle,
        (Path(item.image),),
        item.prompt,
        threads=plan.threads,
        hf=plan.hf,
        template_args=plan.template_args,
        work=plan.out / WORK,
    )
