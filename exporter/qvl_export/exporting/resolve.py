"""Resolves a plan: finds, reads and checks its inputs, and refuses here whatever cannot be exported.

After `resolve`, an export fails only for reasons that show while it works: an unreadable page, a value beyond float16's
range, a full disk, an engine builder that refuses a graph.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from qvl_runtime.manifest import EXACT_EVERYWHERE, FileEntry, Manifest

from .. import engines, families, targets
from ..bundle import manifest as describe
from ..bundle.text_files import texts as text_files
from ..checkpoint import generation_config as generation
from ..checkpoint import unused_tensors as leftovers
from ..checkpoint.directory import HEAD, Checkpoint
from ..checkpoint.quantized import detect as stored
from ..checkpoint.quantized import gptq_writer
from ..checkpoint.safetensors_reader import Tensor
from ..common import atomic_output as atomic
from ..common.log import log
from ..common.progress import Progress
from ..engines import Finisher
from ..errors import ConfigError, ExportError
from ..families.spec import ModelSpec
from ..graph import build, weights
from ..graph.packed_sources import packed_parts
from ..graph.weight_matching import match
from ..jobs.open_pool import check_pool
from ..quant import format_checks, precision, schemes
from ..quant import rotation as rotate
from ..quant.calibration.saved_linear import SavedLinear
from ..quant.calibration_data.selection import Pages, select
from ..quant.context import CalibrationSetup
from ..quant.precision import INT4, MIXED
from . import hub, layouts
from .option_checks import (
    adjusted_spec,
    check_counts,
    check_effect,
    check_int4,
    check_options,
    check_schemes,
    quantized,
)
from .plan import ExportPlan
from .resolved_export import DirectoryLayout, Linears, ResolvedExport, build_graph


def resolve(plan: ExportPlan, progress: Progress) -> ResolvedExport:
    """Returns the plan's inputs for an export; writes nothing.

    Options, paths, calibration pages and engine libraries are checked before the checkpoint is located or downloaded,
    everything else before calibration.

    Raises ExportError (ConfigError, CheckpointError, HubError, OutputError), or InstallError for a missing library.
    """
    check_options(plan)
    layout = layouts.find(plan.layout)
    _check_outputs(plan, layout)
    precisions, pages = plan.precisions(), None
    if quantized(precisions):
        pages = _select(plan)
        check_pool(plan.calibration.ray)
    lowered = _targets(plan, precisions)
    finisher = _finisher(plan, precisions, {})
    for note in check_int4(plan, lowered):
        progress.stage(f"note: {note}")
    resolved = _read(plan, precisions, lowered, layout, progress)
    check_effect(plan, resolved.targets, bool(resolved.own), resolved.spec.text.moe is not None)
    if pages:
        _report_fewer(plan, pages, progress)
    layout.check(resolved)
    _check_save_gptq(resolved)
    if resolved.own:
        finisher = _finisher(plan, precisions, resolved.own)
    if note := _slow_elsewhere(resolved.cpu):
        progress.stage(f"note: {note}")
    calibration = _calibration(resolved, pages, progress) if pages else None
    return replace(resolved, finisher=finisher, calibration=calibration)


def resolve_sensitivity(plan: ExportPlan, progress: Progress) -> ResolvedExport:
    """Returns the plan's inputs for measuring sensitivities; its precisions and `out` have no effect.

    Raises ExportError and InstallError as `resolve` does.
    """
    check_counts(plan)
    check_schemes(plan, {MIXED})
    pages = _select(plan)
    mixed = dict.fromkeys(precision.TOWERS, MIXED)
    resolved = _read(plan, mixed, _targets(plan, mixed), layouts.find(plan.layout), progress)
    if resolved.own:
        raise ExportError("the checkpoint is already quantized", fix="measure the original one")
    return replace(resolved, calibration=_calibration(resolved, pages, progress))


def _check_outputs(plan: ExportPlan, layout: DirectoryLayout) -> None:
    """Raises OutputError for an output path that is not free."""
    out = Path(plan.out)
    atomic.check_free(out, plan.force, layout.OUTPUT_KIND)
    if plan.quant.save_gptq is not None:
        gptq_writer.check_output(Path(plan.quant.save_gptq), out, plan.force)


def _select(plan: ExportPlan) -> Pages:
    """Returns the calibration pages; raises ExportError or MediaError for those that are missing or damaged."""
    return select(plan.calibration.calib, plan.calibration.samples)


def _report_fewer(plan: ExportPlan, pages: Pages, progress: Progress) -> None:
    """Reports if there are fewer calibration pages than were asked for."""
    samples = plan.calibration.samples
    if plan.is_asked("samples") and len(pages) < samples:
        progress.stage(f"--samples {samples}: there are only {len(pages)}, and all are used")


def _slow_elsewhere(cpu: str | None) -> str:
    """Says where codes for the processors `cpu` are slow; empty if nowhere."""
    if cpu is None or cpu in EXACT_EVERYWHERE:
        return ""
    from qvl_runtime._onnxruntime.saturation import saturates

    here = ", such as this machine," if saturates() else ""
    return (
        f"--cpu {cpu}: on x86 without VNNI{here} this bundle is slow, and other hosts of ONNX Runtime have to set "
        "session.x64quantprecision (--cpu any needs neither)"
    )


def _finisher(plan: ExportPlan, precisions: Mapping[str, str], own: Linears) -> Finisher | None:
    """Returns the function that builds the target's engines, if any; `own` is empty until the checkpoint is read."""
    formats = frozenset(linear.format() for linear in own.values())
    wanted = engines.capabilities(plan.engine.compute_capability)
    options = engines.BuildOptions(
        wanted,
        plan.engine.profile,
        _wants_int4(plan, precisions) or any(format.bits == 4 for format in formats),
        plan.form.tensorrt,
        formats,
    )
    return targets.finisher(plan.target, options)


def _wants_int4(plan: ExportPlan, precisions: Mapping[str, str]) -> bool:
    """Whether any graph's weights get, or may get, 4 bits."""
    found = quantized(precisions).values()
    return any(name == MIXED or schemes.find(name, plan.scheme_options).format(1).bits == 4 for name in found)


def _targets(plan: ExportPlan, precisions: Mapping[str, str]) -> dict[str, targets.Target]:
    """Returns the target of every graph; raises ExportError for an unknown one, and for attention it cannot compute."""
    lowered = {
        name: targets.lower(
            plan.target, precision.of_floats(chosen, plan.precision), plan.quant.accuracy_level, plan.form
        )
        for name, chosen in precisions.items()
    }
    if _wants_int4(plan, precisions):
        lowered = {name: target.for_int4() for name, target in lowered.items()}
    if plan.quant.int8_attention:
        lowered["vision"] = targets.with_int8_attention(lowered["vision"], plan.target)
    return lowered


def _read(
    plan: ExportPlan,
    precisions: Mapping[str, str],
    lowered: Mapping[str, targets.Target],
    layout: DirectoryLayout,
    progress: Progress,
) -> ResolvedExport:
    """Finds, reads and checks the plan's checkpoint."""
    progress.stage(f"locating {plan.checkpoint}")
    checkpoint, revision = hub.locate(str(plan.checkpoint), plan.revision)
    source = describe.CheckpointSource(str(plan.checkpoint), checkpoint.directory, revision)
    own = _own_linears(plan, checkpoint, progress)
    if any(linear.format().bits == 4 for linear in own.values()):
        lowered = {name: target.for_int4() for name, target in lowered.items()}
    spec = adjusted_spec(plan, families.read_spec(checkpoint))
    _check_depth(spec, checkpoint)
    recommended, dropped = generation.read(checkpoint)
    if dropped:
        progress.stage(f"note: {generation.FILE}: {', '.join(dropped)} left out, not supported")
    tensors = rotate.rotated(_used(checkpoint, spec), spec)
    progress.stage(f"building the graphs of {spec.family}")
    sources = _match(spec, tensors, checkpoint.directory, lowered, own)
    for note in (*checkpoint.notes, *leftovers.notes(checkpoint.tensors), *_headless(spec, checkpoint)):
        progress.stage(f"note: {note}")
    texts = text_files.read(checkpoint, spec, lambda note: progress.stage(f"note: {note}"))
    size = sum(tensor.nbytes for tensor in tensors.values())
    log.debug("checkpoint read: %s, %s, %d tensors, %d bytes", checkpoint.directory, spec.family, len(tensors), size)
    return ResolvedExport(
        plan, layout, precisions, lowered, checkpoint, source, spec, tensors, own, sources, texts, recommended
    )


def _own_linears(plan: ExportPlan, checkpoint: Checkpoint, progress: Progress) -> dict[str, stored.QuantizedSource]:
    """Returns the linears that the checkpoint stores quantized, and reports their formats."""
    own = stored.quantized_linears(checkpoint)
    if own and plan.quant.rotate:
        raise ExportError("the checkpoint is already quantized", where=checkpoint.directory, fix="use --no-rotate")
    if own:
        formats = ", ".join(sorted({str(linear.format()) for linear in own.values()}))
        progress.stage(f"{len(own)} linears stay as the checkpoint has them: {formats}")
    return own


def _used(checkpoint: Checkpoint, spec: ModelSpec) -> dict[str, Tensor]:
    """Returns the tensors by their names in the graphs, without those that an export does not need."""
    left = {*leftovers.heads(checkpoint.tensors), *leftovers.buffers(checkpoint.tensors)}
    return {name: tensor for name, tensor in families.tensors(checkpoint, spec).items() if name not in left}


def _headless(spec: ModelSpec, checkpoint: Checkpoint) -> list[str]:
    """Returns a note if the model should have a head of its own but has none."""
    if not spec.text.tied or HEAD in checkpoint.tensors or checkpoint.ties_embeddings:
        return []
    return [f"there is no {HEAD}, and config.json does not tie it: the embedding serves as head"]


def _match(
    spec: ModelSpec, tensors: Mapping[str, Tensor], where: Path, lowered: Mapping[str, targets.Target], own: Linears
) -> dict[str, weights.WeightSource]:
    """Returns the checkpoint's tensor for every parameter; raises CheckpointError if tensors do not fit."""
    graphs = [build_graph(name, spec, target, own) for name, target in lowered.items()]
    tied = ("lm_head.weight",) if spec.text.tied else ()
    unused = (*leftovers.COMPUTED, *tied, *stored.stored_names(own), *stored.zero_biases(own, tensors))
    parts = packed_parts(own, lowered["llm"])
    return match(graphs, tensors, parts, unused, where)


def _check_depth(spec: ModelSpec, checkpoint: Checkpoint) -> None:
    """Raises ConfigError if there are more layers than tensors, before a graph of them is built."""
    for name, depth in (("vision_config.depth", spec.vision.depth), ("num_hidden_layers", spec.text.num_layers)):
        if depth > len(checkpoint.tensors):
            raise ConfigError(
                f"{name} {depth} is more than the checkpoint's {len(checkpoint.tensors)} tensors",
                where=checkpoint.directory / "config.json",
                fix="weights and config.json are of different models",
            )


def _check_save_gptq(resolved: ResolvedExport) -> None:
    """Raises ExportError if the model cannot be saved as a GPTQ checkpoint."""
    plan, spec = resolved.plan, resolved.spec
    if plan.quant.save_gptq is None:
        return
    if "model.embed_tokens.weight" not in resolved.checkpoint.tensors:
        raise ExportError(f"--save-gptq does not know the names of family {spec.family}", fix="leave it out")
    if spec.text.recurrent_layers:  # loaders would look for the projections that stay float
        raise ExportError("--save-gptq is not supported for models with linear attention", fix="leave it out")
    scheme = schemes.find(INT4, plan.scheme_options)
    shapes = build.llm_weights(spec.text, resolved.targets["llm"])
    gptq_writer.check(
        {name: SavedLinear(name, Path(), scheme.format(shape[1]), *shape) for name, shape in shapes.items()}
    )


def _calibration(resolved: ResolvedExport, pages: Pages, progress: Progress) -> CalibrationSetup:
    """Returns the setup of the calibration on `pages`; reads all weights once.

    Raises ExportError for a checkpoint, formats or a limit that the graphs cannot be quantized with.
    """
    plan, wanted = resolved.plan, quantized(resolved.precisions)
    if resolved.own and "llm" in wanted:
        raise ExportError(
            "the checkpoint is already quantized",
            fix="leave --precision, --llm-precision, --max-kl and --max-size out to use it as it is",
        )
    setup = CalibrationSetup(
        resolved.spec,
        resolved.targets,
        resolved.checkpoint,
        resolved.tensors,
        Path(plan.out),
        wanted,
        replace(
            plan.scheme_options,
            static=resolved.targets["vision"].static_activations,
            int4=resolved.targets["vision"].has_int4,
            cpu=resolved.cpu,
            kv_bits=8 if resolved.targets["llm"].quantized_tables and plan.quant.save_gptq is None else 4,
        ),
        pages,
        plan.limit,
        prune=plan.calibration_prune,
    )
    format_checks.check_formats(setup)
    if plan.quant.max_size is not None:
        format_checks.check_size(setup, _draft(resolved))
    weights.check_finite(resolved.checkpoint.tensors.values(), progress)
    return setup


def _draft(resolved: ResolvedExport) -> Manifest:
    """Returns the manifest of the bundle before any graph is written."""
    files = {
        name: FileEntry(size=len(content), sha256=hashlib.sha256(content).hexdigest())
        for name, content in text_files.encoded(resolved.texts).items()
    }
    return resolved.manifest({}, files, hashlib.sha256())
