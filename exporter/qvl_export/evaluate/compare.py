"""Bundles against a reference on the same items: answer, then summarise. Killed, it goes on where it stopped."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from qvl_runtime import manifest as manifests
from qvl_runtime.errors import QvlError
from qvl_runtime.manifest import MANIFEST

from ..errors import ExportError
from ..progress import Progress, Silent
from .answering import HF, Job
from .blame import Blame, BlamePlan, blame
from .dataset import EvalSet, open_set
from .processes import run_jobs
from .records import Cost, Records
from .results import Report
from .summary import Contender, summarise

NOISE_ITEMS = 100
ANSWERING = "qvl_export.evaluate.answering"


@dataclass(frozen=True)
class ComparePlan:
    """What to compare, on what, and how.

    `reference` is a bundle, or with `hf` a checkpoint directory run by PyTorch; `items` asks so many of the set, drawn
    with a seed; `threads` are shared by `workers` processes; results and their work area go under `out`. `blame`
    traces the worst item of every bundle layer by layer.
    """

    reference: Path
    bundles: tuple[Path, ...]
    data: Path
    out: Path
    items: int | None = None
    threads: int | None = None
    workers: int = 1
    max_new_tokens: int | None = None
    hf: bool = False
    blame: bool = True


@dataclass(frozen=True)
class Model:
    """A bundle or checkpoint to run: its place, engine, name in the report, and what tells it from others."""

    path: Path
    engine: str
    title: str
    key: str


def compare(plan: ComparePlan, progress: Progress | None = None) -> Report:
    """Answer the set with every model and compare; raises ExportError, BundleError.

    Leaves `work/` under `plan.out`, whose records a later run with the same set and answer length uses again.
    """
    progress = progress or Silent()
    progress.stage(f"checking {plan.data}")
    chosen = open_set(plan.data, plan.items)
    reference, *others = _models(plan)
    area = _Area(plan, chosen, _work(plan, chosen), progress)
    try:
        pending = [other for other in others if area.missing(other.key, chosen)]
        cores = plan.threads or _cores()
        noisy = chosen.subset(NOISE_ITEMS)
        noise = f"{reference.key}-threads{_other_count(cores)}"
        floor = bool(area.missing(noise, noisy)) and not plan.hf
        area.answer(reference, f"reference-{reference.key}", chosen, True, plan.threads, bool(pending) or floor)
        if floor:
            area.answer(reference, noise, noisy, False, _other_count(cores), True, "the noise floor")
        for other in others:
            area.answer(other, other.key, chosen, False, plan.threads, False)
    finally:
        shutil.rmtree(area.scratch, ignore_errors=True)
    progress.stage("comparing")
    first = area.contender(reference, f"reference-{reference.key}")
    compared = [area.contender(other, other.key) for other in others]
    report = summarise(chosen, first, compared, None if plan.hf else Records(area.work, noise))
    return msgspec.structs.replace(report, blame=_blames(plan, report, progress)) if plan.blame else report


@dataclass(frozen=True)
class _Area:
    """The work area of one set and answer length."""

    plan: ComparePlan
    chosen: EvalSet
    work: Path
    progress: Progress

    @property
    def scratch(self) -> Path:
        return self.work / "scratch"

    def missing(self, name: str, chosen: EvalSet) -> int:
        """Items not answered yet."""
        records = Records(self.work, name)
        return sum(records.answered(item.index) is None for item in chosen.items())

    def answer(
        self,
        model: Model,
        name: str,
        chosen: EvalSet,
        reference: bool,
        threads: int | None,
        again: bool,
        what: str = "",
    ) -> None:
        """Answer what is missing; `again` runs even where nothing is, for a reference's distributions."""
        missing = self.missing(name, chosen)
        if not missing and not again:
            return
        self.progress.stage(f"{what or model.title}: {missing} of {chosen.count} items to answer", missing)
        self.scratch.mkdir(parents=True, exist_ok=True)
        workers = self.plan.workers
        share = None if threads is None and workers == 1 else max(1, (threads or _cores()) // workers)
        jobs = [
            Job(
                model=str(model.path),
                engine=model.engine,
                data=str(chosen.directory),
                total=chosen.total,
                digest=chosen.digest,
                chosen=chosen.chosen,
                records=str(self.work),
                name=name,
                scratch=str(self.scratch),
                reference=reference,
                threads=share,
                max_new_tokens=self.plan.max_new_tokens,
                rank=rank,
                workers=workers,
            )
            for rank in range(workers)
        ]
        run_jobs(ANSWERING, jobs, self.progress.advance)

    def contender(self, model: Model, name: str) -> Contender:
        """What the summary needs to know of a model."""
        cost = Cost.load(self.work, name) or Cost(0.0, 0.0)
        if model.engine == HF:
            size = sum(file.stat().st_size for file in model.path.glob("*.safetensors")) / 1e6
            return Contender(model.title, str(model.path), "PyTorch", "", size, cost, Records(self.work, name))
        manifest = manifests.read(model.path)
        precisions = ", ".join(f"{graph} {entry.precision}" for graph, entry in manifest.graphs.items())
        size = sum(file.size for file in manifest.files.values()) / 1e6
        return Contender(
            model.title, str(model.path), precisions, manifest.family, size, cost, Records(self.work, name)
        )


def _blames(plan: ComparePlan, report: Report, progress: Progress) -> dict[str, Blame]:
    """Every bundle's worst item traced layer by layer, by title; what cannot be traced is told and left out."""
    found = {}
    for path, bundle in zip(plan.bundles, report.bundles, strict=True):
        for worst in bundle.worst[:1]:
            pages, threads = (Path(worst.image),), plan.threads
            try:
                traced = blame(BlamePlan(plan.reference, path, pages, worst.prompt, None, threads, plan.hf), progress)
            except QvlError as error:
                progress.stage(f"{bundle.title} cannot be traced: {error}")
            else:
                found[bundle.title] = traced
    return found


def _models(plan: ComparePlan) -> list[Model]:
    """The reference and the others, checked; names that are alike get their parents in front."""
    if not plan.bundles:
        raise ExportError("there is nothing to compare with the reference", fix="name at least one bundle")
    paths = [plan.reference, *plan.bundles]
    names = _titles(paths)
    keys = [_hf_key(path) if plan.hf and not number else _bundle_key(path) for number, path in enumerate(paths)]
    engines = [HF if plan.hf else "bundle", *["bundle"] * len(plan.bundles)]
    return [Model(*parts) for parts in zip(paths, engines, names, keys, strict=True)]


def _titles(paths: Sequence[Path]) -> list[str]:
    """As many last parts of the paths as tell them apart."""
    resolved = [path.resolve() for path in paths]
    for depth in range(1, max(len(path.parts) for path in resolved)):
        titles = ["/".join(path.parts[-depth:]) for path in resolved]
        if len(set(titles)) == len(set(resolved)):
            return titles
    return [str(path) for path in resolved]


def _bundle_key(path: Path) -> str:
    """From the manifest, which holds the hash of every file."""
    manifests.read(path)
    return hashlib.sha256((path / MANIFEST).read_bytes()).hexdigest()[:12]


def _hf_key(path: Path) -> str:
    """From names, sizes and times of a checkpoint's files."""
    if not (path / "config.json").is_file():
        raise ExportError("is not a checkpoint directory", where=path, fix="--reference hf takes one")
    files = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(path.iterdir())]
    return hashlib.sha256(repr(files).encode()).hexdigest()[:12]


def _work(plan: ComparePlan, chosen: EvalSet) -> Path:
    """The directory of this set, these items and this answer length."""
    key = msgspec.json.encode([chosen.digest, chosen.chosen, plan.max_new_tokens])
    work = plan.out / "work" / hashlib.sha256(key).hexdigest()[:12]
    work.mkdir(parents=True, exist_ok=True)
    return work


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _other_count(threads: int) -> int:
    """Another number of threads, to see what that alone changes."""
    return 1 if threads > 1 else 2
