"""The export as a list of stages: open the checkpoint, then quantize, build and write one graph after another."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from qvl_runtime.manifest import Manifest

from . import atomic, layouts, targets
from .draft import Draft
from .errors import ExportError
from .graph import build
from .opening import Opened, open_checkpoint
from .plan import ExportPlan, quantized
from .processes import Pool, open_pool
from .progress import Progress, Silent
from .quant import precision, save_gptq, schemes
from .quant.pages import select
from .quant.quantizer import MIXED, Quantizer
from .quant.saved import SavedLinear
from .quant.sensitivities import Sensitivity
from .quant.work import Quantized

__all__ = ["ExportPlan", "Progress", "Silent", "export", "sensitivity"]


def export(plan: ExportPlan, progress: Progress | None = None) -> Manifest:
    """Make a bundle, or what the plan's layout has in its place, and return the bundle's manifest.

    Nothing is left behind on an error.

    Raises ExportError (ConfigError, CheckpointError, HubError, OutputError).
    """
    progress, out, precisions = progress or Silent(), Path(plan.out), plan.precisions()
    layout = layouts.find(plan.layout)
    atomic.check_free(out, plan.force, layout.PRODUCT)
    opened = open_checkpoint(plan, precisions, progress)
    layout.check(opened)
    _check_save_gptq(opened)
    finisher = targets.finisher(plan.target, opened.engine_options)
    with _quantizer(opened) as quantizer, atomic.writing(out, plan.force, layout.PRODUCT) as directory:
        draft, made = Draft(opened, directory), Quantized()
        for name in precisions:
            if quantizer:
                made = quantizer.tower(name, draft.manifest(), directory, made, progress.stage)
            draft.add(name, made, progress)
        if finisher:
            draft.finish_with(finisher, progress)
        manifest = draft.manifest(quantizer.calibration(progress.stage) if quantizer else None)
        layout.finish(directory, opened, draft.graphs, manifest)
        _save_gptq(opened, made, progress)
    if quantizer:
        quantizer.clean()
    return manifest


def sensitivity(plan: ExportPlan, progress: Progress | None = None) -> list[Sensitivity]:
    """What each precision of each linear costs the answers on the plan's pages; `out` is not written.

    Raises ExportError as `export` does.
    """
    progress, mixed = progress or Silent(), dict.fromkeys(precision.TOWERS, MIXED)
    opened = open_checkpoint(plan, mixed, progress)
    if opened.own:
        raise ExportError("the checkpoint is already quantized", fix="measure the original one")
    with tempfile.TemporaryDirectory(prefix="qvl-export-") as directory:
        work = Path(directory)
        quantizer = _quantizer_of(opened, mixed, work / "b")
        return quantizer.sensitivities(Draft(opened, work).manifest(), work, progress.stage)


@contextlib.contextmanager
def _quantizer(opened: Opened) -> Iterator[Quantizer | None]:
    """What quantizes the graphs that are to be quantized; raises ExportError when it cannot be had."""
    plan, wanted = opened.plan, quantized(opened.precisions)
    if wanted:
        plan.check_calibration(already=bool(opened.own))
        with open_pool(plan.ray) if plan.ray else contextlib.nullcontext() as pool:
            yield _quantizer_of(opened, wanted, Path(plan.out), pool)
        return
    for option, given in (("--calib", plan.calib), ("--ray", plan.ray)):
        if given:
            raise ExportError(f"{option} is for quantization", fix="add --precision int8 or int4, or leave it out")
    yield None


def _quantizer_of(opened: Opened, wanted: dict[str, str], out: Path, pool: Pool | None = None) -> Quantizer:
    plan = opened.plan
    return Quantizer(
        opened.spec,
        opened.targets,
        opened.checkpoint,
        opened.tensors,
        out,
        wanted,
        opened.options,
        select(plan.calib, plan.samples),
        plan.limit,
        plan.vision_weight,
        pool,
    )


def _check_save_gptq(opened: Opened) -> None:
    """Refuse what cannot be saved as a GPTQ checkpoint, before the long work."""
    plan, spec = opened.plan, opened.spec
    if plan.save_gptq is None:
        return
    if opened.precisions["llm"] != "int4":
        raise ExportError("--save-gptq writes what was quantized", fix="add --llm-precision int4, or leave it out")
    if "model.embed_tokens.weight" not in opened.checkpoint.tensors:
        raise ExportError(f"--save-gptq does not know the names of family {spec.family}", fix="leave it out")
    scheme = schemes.find("int4", plan.options)
    shapes = build.llm_weights(spec.text, opened.targets["llm"])
    linears = {name: SavedLinear(name, Path(), scheme.layout(shape[1]), *shape) for name, shape in shapes.items()}
    save_gptq.check(Path(plan.save_gptq), Path(plan.out), linears, plan.force)


def _save_gptq(opened: Opened, made: Quantized, progress: Progress) -> None:
    plan = opened.plan
    if plan.save_gptq is not None:
        out, linears = Path(plan.save_gptq), opened.linears(made)
        save_gptq.save(out, opened.checkpoint, linears, plan.force, progress.stage, progress.advance)
