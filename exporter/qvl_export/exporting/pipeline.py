"""The stages of an export: open the checkpoint, then quantize, build and write one graph after another."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from qvl_runtime.manifest import Manifest

from .. import targets
from ..checkpoint.quantized import gptq_writer as save_gptq
from ..common import atomic_output as atomic
from ..common.progress import Progress, Silent
from ..common.scratch import scratch
from ..common.threads import limited_threads
from ..errors import ExportError
from ..graph import build, weights
from ..jobs.open_pool import open_pool
from ..jobs.pool import Pool
from ..quant import precision, schemes
from ..quant.calibration.resume import calibrating
from ..quant.calibration.saved_linear import SavedLinear
from ..quant.calibration.work_dir import Quantized
from ..quant.calibration_data.selection import Pages, select
from ..quant.context import CalibrationSetup
from ..quant.mixed_precision.sensitivity_table import Sensitivity
from ..quant.precision import MIXED
from ..quant.quantizer import Quantizer
from . import layouts
from .bundle_builder import Draft
from .plan import ExportPlan, quantized
from .resolve import Opened, open_checkpoint

__all__ = ["ExportPlan", "Progress", "Silent", "export", "sensitivity"]


def export(plan: ExportPlan, progress: Progress | None = None) -> Manifest:
    """Writes a bundle, or the directory of the plan's layout, and returns the bundle's manifest.

    On an error only the calibration's work directory remains, so that the next run can resume; a note on the error
    says so.

    Raises ExportError (ConfigError, CheckpointError, HubError, OutputError).
    """
    progress, out, precisions = progress or Silent(), Path(plan.out), plan.precisions()
    plan.check()
    layout = layouts.find(plan.layout)
    atomic.check_free(out, plan.force, layout.PRODUCT)
    if plan.save_gptq is not None:
        save_gptq.check_place(Path(plan.save_gptq), out, plan.force)
    pages = select(plan.calib, plan.samples) if quantized(precisions) else None
    opened = open_checkpoint(plan, precisions, progress)
    plan.check_opened(opened.targets, bool(opened.own), opened.spec.text.moe is not None)
    _tell_fewer(plan, pages, progress)
    layout.check(opened)
    _check_save_gptq(opened)
    finisher = targets.finisher(plan.target, opened.engine_options)
    with (
        limited_threads(plan.threads),
        _quantizer(opened, pages, progress) as quantizer,
        _gptq_checkpoint(plan) as save_gptq_to,
        atomic.writing(out, plan.force, layout.PRODUCT) as directory,
    ):
        draft, made = Draft(opened, directory), Quantized()
        for name in precisions:
            if quantizer:
                made = quantizer.tower(name, draft.manifest(), directory, made, progress.stage)
            draft.add(name, made, progress)
        if finisher:
            draft.finish_with(finisher, progress)
        manifest = draft.manifest(quantizer.calibration(progress.stage) if quantizer else None)
        layout.finish(directory, opened, draft.graphs, manifest)
        save_gptq_to(opened, made, progress)
    return manifest


def _tell_fewer(plan: ExportPlan, pages: Pages | None, progress: Progress) -> None:
    """Reports when there are fewer calibration pages than requested."""
    if pages is not None and plan.asked("samples") and len(pages) < plan.samples:
        progress.stage(f"--samples {plan.samples}: there are only {len(pages)}, and all are used")


def sensitivity(plan: ExportPlan, progress: Progress | None = None) -> list[Sensitivity]:
    """Measures the KL divergence that each precision of each linear costs on the plan's pages; `out` is not written.

    Raises ExportError as `export` does.
    """
    progress, mixed = progress or Silent(), dict.fromkeys(precision.TOWERS, MIXED)
    schemes.find("int4", plan.options)
    pages = select(plan.calib, plan.samples)
    opened = open_checkpoint(plan, mixed, progress)
    if opened.own:
        raise ExportError("the checkpoint is already quantized", fix="measure the original one")
    weights.check_finite(opened.checkpoint.tensors.values(), progress)
    with limited_threads(plan.threads), scratch() as work:
        quantizer = _quantizer_of(opened, mixed, work / "b", pages)
        return quantizer.sensitivities(Draft(opened, work).manifest(), work, progress.stage)


@contextlib.contextmanager
def _quantizer(opened: Opened, pages: Pages | None, progress: Progress) -> Iterator[Quantizer | None]:
    """Yields the quantizer of the plan's graphs on `pages`, None without pages; raises ExportError on failure."""
    plan, wanted = opened.plan, quantized(opened.precisions)
    if pages is None:
        yield None
        return
    if opened.own and "llm" in wanted:
        raise ExportError(
            "the checkpoint is already quantized",
            fix="leave --precision, --llm-precision, --max-kl and --max-size out to use it as it is",
        )
    weights.check_finite(opened.checkpoint.tensors.values(), progress)
    with open_pool(plan.ray) if plan.ray else contextlib.nullcontext() as pool:
        quantizer = _quantizer_of(opened, wanted, Path(plan.out), pages, pool)
        with calibrating(Path(plan.out)):
            yield quantizer


def _quantizer_of(
    opened: Opened, wanted: dict[str, str], out: Path, pages: Pages, pool: Pool | None = None
) -> Quantizer:
    plan = opened.plan
    setup = CalibrationSetup(
        opened.spec,
        opened.targets,
        opened.checkpoint,
        opened.tensors,
        out,
        wanted,
        opened.options,
        pages,
        plan.limit,
        plan.vision_weight,
        pool,
    )
    return Quantizer(setup)


def _check_save_gptq(opened: Opened) -> None:
    """Raises ExportError before the long work if the model cannot be saved as a GPTQ checkpoint."""
    plan, spec = opened.plan, opened.spec
    if plan.save_gptq is None:
        return
    if "model.embed_tokens.weight" not in opened.checkpoint.tensors:
        raise ExportError(f"--save-gptq does not know the names of family {spec.family}", fix="leave it out")
    scheme = schemes.find("int4", plan.options)
    shapes = build.llm_weights(spec.text, opened.targets["llm"])
    save_gptq.check(
        {name: SavedLinear(name, Path(), scheme.format(shape[1]), *shape) for name, shape in shapes.items()}
    )


@contextlib.contextmanager
def _gptq_checkpoint(plan: ExportPlan) -> Iterator[Callable[[Opened, Quantized, Progress], None]]:
    """Yields a function that writes the plan's GPTQ checkpoint, if any; its directory appears only on success."""
    if plan.save_gptq is None:
        yield lambda *_: None
        return
    out = Path(plan.save_gptq)
    with atomic.writing(out, plan.force, save_gptq.GPTQ) as directory:

        def save(opened: Opened, made: Quantized, progress: Progress) -> None:
            with atomic.told(directory, out):
                linears = opened.linears(made)
                save_gptq.save(directory, opened.checkpoint, linears, progress.stage, progress.advance)

        yield save
