"""The stages of an export: resolve the plan, then quantize, build and write one graph after another."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from qvl_runtime.manifest import Manifest

from ..checkpoint.quantized import gptq_writer
from ..common import atomic_output as atomic
from ..common.field_types import shown
from ..common.progress import NullProgress, Progress
from ..common.scratch import scratch
from ..common.threads import limited_threads
from ..errors import ExportError
from ..jobs.open_pool import open_pool
from ..quant.calibration.resume import calibrating
from ..quant.calibration.work_dir import TowerResult
from ..quant.mixed_precision.sensitivity_table import Sensitivity
from ..quant.quantizer import Quantizer
from .bundle_builder import BundleBuilder
from .options import CalibrationOptions, EngineOptions, GraphOptions, QuantOptions
from .plan import ExportPlan
from .resolve import resolve, resolve_sensitivity
from .resolved_export import ResolvedExport

__all__ = [
    "CalibrationOptions",
    "EngineOptions",
    "ExportPlan",
    "GraphOptions",
    "NullProgress",
    "Progress",
    "QuantOptions",
    "export",
    "sensitivity",
]


def export(plan: ExportPlan, progress: Progress | None = None) -> Manifest:
    """Writes a bundle, or the directory of the plan's layout, and returns the bundle's manifest.

    On an error only the calibration's work directory remains, so that the next run can resume; a note on the error
    says so.

    Raises ExportError (ConfigError, CheckpointError, HubError, OutputError).
    """
    progress = _checked(plan, progress)
    resolved = resolve(plan, progress)
    with (
        limited_threads(plan.calibration.threads),
        _quantizer(resolved) as quantizer,
        _gptq_directory(plan) as gptq_directory,
        atomic.writing(Path(plan.out), plan.force, resolved.layout.OUTPUT_KIND) as directory,
    ):
        builder, tower_result = BundleBuilder(resolved, directory), TowerResult()
        for name in resolved.precisions:
            if quantizer:
                context = quantizer.context(builder.manifest(), directory, progress.stage)
                tower_result = quantizer.tower(name, context, tower_result)
            builder.add(name, tower_result, progress)
        if resolved.finisher:
            builder.finish_with(resolved.finisher, progress)
        manifest = builder.manifest(quantizer.calibration(progress.stage) if quantizer else None)
        resolved.layout.finish(directory, resolved, builder.graphs, manifest)
        if gptq_directory:
            _save_gptq(resolved, tower_result, gptq_directory, progress)
    return manifest


def sensitivity(plan: ExportPlan, progress: Progress | None = None) -> list[Sensitivity]:
    """Measures the KL divergence that each precision of each linear costs on the plan's pages; `out` is not written.

    Raises ExportError as `export` does.
    """
    progress = _checked(plan, progress)
    resolved = resolve_sensitivity(plan, progress)
    assert resolved.calibration is not None
    with limited_threads(plan.calibration.threads), scratch() as work:
        quantizer = Quantizer(replace(resolved.calibration, out=work / "b"))
        context = quantizer.context(BundleBuilder(resolved, work).manifest(), work, progress.stage)
        return quantizer.sensitivities(context)


def _checked(plan: object, progress: Progress | None) -> Progress:
    """Returns the progress to report to; raises ExportError for a plan or a progress of a wrong type."""
    if not isinstance(plan, ExportPlan):
        raise ExportError(f"plan must be an instance of ExportPlan, got {shown(plan)}")
    if progress is None:
        return NullProgress()
    methods = (getattr(progress, name, None) for name in ("stage", "advance"))
    if isinstance(progress, type) or not all(map(callable, methods)):
        raise ExportError(f"progress must have the methods stage and advance, or be None, got {shown(progress)}")
    return progress


@contextlib.contextmanager
def _quantizer(resolved: ResolvedExport) -> Iterator[Quantizer | None]:
    """Yields the quantizer of the export's graphs, None if all stay float; raises ExportError on failure."""
    setup, ray = resolved.calibration, resolved.plan.calibration.ray
    if setup is None:
        yield None
        return
    with open_pool(ray) if ray else contextlib.nullcontext() as pool, calibrating(setup.out):
        yield Quantizer(replace(setup, pool=pool))


@contextlib.contextmanager
def _gptq_directory(plan: ExportPlan) -> Iterator[Path | None]:
    """Yields the directory for the plan's GPTQ checkpoint, which appears only on success; None if there is none."""
    if plan.quant.save_gptq is None:
        yield None
        return
    with atomic.writing(Path(plan.quant.save_gptq), plan.force, gptq_writer.GPTQ) as directory:
        yield directory


def _save_gptq(resolved: ResolvedExport, tower_result: TowerResult, directory: Path, progress: Progress) -> None:
    """Writes the GPTQ checkpoint; raises OutputError that names its path, not that of the bundle."""
    out = resolved.plan.quant.save_gptq
    assert out is not None
    with atomic.naming_output(directory, Path(out)):
        linears = resolved.linears(tower_result)
        gptq_writer.save(directory, resolved.checkpoint, linears, progress.stage, progress.advance)
