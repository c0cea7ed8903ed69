"""Refuses options of a plan that are invalid, that contradict each other, or that have no effect."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from qvl_runtime.bundle import has_utf8_name
from qvl_runtime.manifest import CPUS, DECODE
from qvl_runtime.prune.rule import recorded_rule

from ..common.enumeration import joined
from ..errors import ExportError
from ..families.spec import ModelSpec
from ..quant import precision, schemes
from ..quant import rotation as rotate
from ..quant.precision import HYBRID, INT4, INT8
from ..targets import Target
from ..targets.portable import LINEAR_ATTENTION
from .options import GraphOptions
from .plan import ExportPlan

DEFAULT_MAX_LENGTH = 8192
GENAI = "genai"
"""The layout for ONNX Runtime GenAI."""
_LLM = ("llm", DECODE)
_GRAPHS = ("vision", *_LLM)


@dataclass(frozen=True)
class Reader:
    """An option that has an effect only in quantized graphs: in any of `graphs`, and in those of `by_scheme` whose
    scheme reads it. `what` and `fix` are parts of the error message."""

    field: str
    graphs: tuple[str, ...] = _GRAPHS
    by_scheme: tuple[str, ...] = ()
    what: str = "quantization"
    fix: str = f"add --precision {INT8} or {INT4}"

    def has_effect(self, graph: str, chosen: str) -> bool:
        """Whether the option has an effect in a graph of this precision; raises the errors of `schemes.find`."""
        if chosen in precision.FLOATS:
            return False
        return graph in self.graphs or (graph in self.by_scheme and _is_read(self.field, chosen))


_ADD_INT4 = f"add --precision {INT4}"
READ_BY = {
    "--calib": Reader("calib"),
    "--samples": Reader("samples"),
    "--calib-prune": Reader("calib_prune"),
    "--threads": Reader("threads"),
    "--ray": Reader("ray"),
    "--block-size": Reader("block_size", (), _GRAPHS, INT4, _ADD_INT4),
    "--cpu": Reader("cpu", (), _GRAPHS, INT8, f"add --precision {INT8}"),
    "--no-gptq-experts": Reader("gptq_experts", (), _LLM, f"{INT4} of the language model", _ADD_INT4),
}
"""Options that have no effect unless a graph has a certain precision."""


def _is_read(option: str, chosen: str) -> bool:
    """Whether any scheme of the quantized precision `chosen` reads an option of schemes."""
    return any(schemes.reads(name, option) for name in precision.schemes_of(chosen))


def any_reads(option: str, precisions: Mapping[str, str]) -> bool:
    """Whether a scheme of any graph reads an option of schemes."""
    return any(_is_read(option, chosen) for chosen in quantized(precisions).values())


def quantized(precisions: Mapping[str, str]) -> dict[str, str]:
    """Returns the entries of `precisions` that are not float types."""
    return {name: chosen for name, chosen in precisions.items() if chosen not in precision.FLOATS}


def check_options(plan: ExportPlan) -> None:
    """Raises ExportError for options that are invalid with any checkpoint; InstallError if a library is missing."""
    _check_limit(plan)
    _check_prune(plan)
    precisions, quant = plan.precisions(), plan.quant
    if quant.cpu not in CPUS:
        raise ExportError(f"--cpu {quant.cpu} is not supported", fix=f"supported: {', '.join(CPUS)}")
    for path in (plan.out, quant.save_gptq):
        if path == "":
            raise ExportError("the output path is empty", fix="name a directory")
        if path is not None and not has_utf8_name(Path(path)):
            raise ExportError("is not UTF-8, so no engine can open it", where=path, fix="choose another directory")
    if quant.save_gptq is not None and precisions["llm"] != INT4:
        raise ExportError(f"--save-gptq writes {INT4} only", fix=f"add --llm-precision {INT4}, or leave it out")
    if quant.rotate and (quant.save_gptq is not None or plan.limit):
        raise ExportError(
            "--rotate cannot be combined with --save-gptq, --max-kl or --max-size", fix="leave --rotate out"
        )
    check_counts(plan)
    _check_int8_attention(plan, precisions["vision"])
    _check_read(plan, precisions)
    check_schemes(plan, set(quantized(precisions).values()))


def _check_int8_attention(plan: ExportPlan, chosen: str) -> None:
    """Raises ExportError for --int8-attention without int8 linears, and with limits, which do not measure it."""
    if plan.is_asked("int8_attention") and (plan.limit or chosen != INT8):
        fix = f"add --precision {INT8} or --vision-precision {INT8}, or leave it out"
        raise ExportError(f"--int8-attention is for a vision tower in {INT8}", fix=fix)


def check_counts(plan: ExportPlan) -> None:
    """Raises ExportError for numbers of pages and threads that are not positive."""
    for option, count in (("--samples", plan.calibration.samples), ("--threads", plan.calibration.threads)):
        if count is not None and count < 1:
            raise ExportError(f"{option} must be >= 1, got {count}")


def check_schemes(plan: ExportPlan, precisions: set[str]) -> None:
    """Raises ExportError or InstallError if the schemes of these precisions do not support the options or this
    machine."""
    for name in sorted({name for chosen in precisions for name in precision.schemes_of(chosen)}):
        schemes.find(name, plan.scheme_options)


def _check_prune(plan: ExportPlan) -> None:
    """Raises ExportError for rules that do not exist, and for a default where none can be recorded."""
    _ = plan.calibration_prune
    if plan.default_prune is not None and plan.layout == GENAI:
        raise ExportError(
            f"--layout {GENAI} does not support --prune: GenAI always sees whole pages", fix="leave it out"
        )


def _check_limit(plan: ExportPlan) -> None:
    quant = plan.quant
    limits = [value for value in (quant.max_kl, quant.max_size) if value is not None]
    own = quant.vision_precision or quant.llm_precision or plan.precision != ExportPlan.precision
    if limits and (len(limits) > 1 or own):
        raise ExportError(
            "--max-kl, --max-size and precisions exclude one another",
            fix="give one of --max-kl, --max-size, --precision",
        )
    if limits and not 0 < limits[0] < math.inf:
        raise ExportError(f"a limit of {limits[0]} cannot be kept", fix="--max-kl and --max-size must be above 0")


def _check_read(plan: ExportPlan, precisions: Mapping[str, str]) -> None:
    """Refuses options without effect: accepting them silently would be misleading."""
    for option, reader in READ_BY.items():
        asked = plan.is_asked(reader.field)
        if asked and not any(reader.has_effect(graph, chosen) for graph, chosen in precisions.items()):
            raise ExportError(f"{option} is for {reader.what}", fix=f"{reader.fix}, or leave it out")
    if plan.quant.vision_precision and plan.quant.llm_precision and plan.precision not in precision.FLOATS:
        raise ExportError(
            "--precision has no effect if both towers have their own",
            fix="leave it out, or --vision-precision or --llm-precision",
        )


def check_effect(plan: ExportPlan, lowered: Mapping[str, Target], own: bool, experts: bool) -> None:
    """Raises ExportError for options that have no effect with this target or checkpoint.

    `own` says whether the checkpoint stores quantized linears, `experts` whether the model has experts.
    """
    precisions = plan.precisions()
    if plan.is_asked("accuracy_level"):
        if not any(hasattr(target, "accuracy_level") for target in lowered.values()):
            raise ExportError(f"target {plan.target} does not read --accuracy-level", fix="leave it out")
        if not own and not quantized({name: chosen for name, chosen in precisions.items() if name != "vision"}):
            fix = f"{_ADD_INT4}, or leave it out"
            raise ExportError("--accuracy-level is for a quantized language model", fix=fix)
    if plan.is_asked("cpu") and not lowered["vision"].byte_products:
        raise ExportError(f"target {plan.target} does not read --cpu", fix="leave it out")
    if plan.is_asked("gptq_experts") and not experts:
        raise ExportError("--no-gptq-experts is for models with experts", fix="leave it out")


def check_int4(plan: ExportPlan, lowered: Mapping[str, Target]) -> list[str]:
    """Returns a note if weights get 8 bits because the graphs' opset has no 4-bit types.

    Raises ExportError for options that need 4-bit weights.
    """
    precisions, lacks = plan.precisions(), f"opset {plan.graph.opset} has no int4"
    if all(target.has_int4 for target in lowered.values()):
        return []
    needs = [name for name, given in (("--max-kl", plan.quant.max_kl), ("--max-size", plan.quant.max_size)) if given]
    needs += ["--save-gptq"] if plan.quant.save_gptq is not None else []
    needs += [f"--precision {HYBRID}"] if DECODE in precisions else []
    if needs:
        raise ExportError(f"{lacks}, which {needs[0]} needs", fix="use --opset 21 or later, or leave it out")
    return [f"{lacks}: weights get 8 bits, one scale per row"] if INT4 in precisions.values() else []


def adjusted_spec(plan: ExportPlan, spec: ModelSpec) -> ModelSpec:
    """Returns the spec with the plan's pixel bounds, length, rotation and pruning.

    Raises ExportError for those that the model does not support, and for an opset or a cache that it does not have.
    """
    low, high = _pixels(plan, spec)
    _check_recurrent(plan.graph, spec)
    rules = {"--prune": plan.default_prune, "--calib-prune": recorded_rule(plan.calibration_prune)}
    given = [option for option, rule in rules.items() if rule not in (None, "off")]
    if spec.image.square and given:
        size = f"{spec.image.square} × {spec.image.square} pixels"
        raise ExportError(
            f"family {spec.family} sees every image in {size} and cannot leave out any", fix=f"leave {given[0]} out"
        )
    image = msgspec.structs.replace(spec.image, min_pixels=low, max_pixels=high, prune=plan.default_prune)
    text = replace(spec.text, rotation_seed=rotate.SEED if plan.quant.rotate else None)
    return replace(spec, image=image, max_positions=_length(plan, spec), text=text)


def _check_recurrent(graph: GraphOptions, spec: ModelSpec) -> None:
    """Raises ExportError for a form of graphs that linear attention does not have."""
    if not spec.text.recurrent_layers:
        return
    if graph.opset is not None and graph.opset < LINEAR_ATTENTION:
        fix = f"use --opset {LINEAR_ATTENTION}, or leave it out"
        raise ExportError(f"opset {graph.opset} has no linear attention, which family {spec.family} needs", fix=fix)
    if graph.cache == "concat":
        raise ExportError(f"family {spec.family} has linear attention and no --cache concat", fix="leave it out")


def _pixels(plan: ExportPlan, spec: ModelSpec) -> tuple[int, int]:
    low, high = plan.min_pixels, plan.max_pixels
    if spec.image.square and (low is not None or high is not None):
        raise ExportError(
            f"family {spec.family} resizes every image to {spec.image.square} × {spec.image.square} pixels",
            fix="leave --min-pixels and --max-pixels out",
        )
    high = spec.image.max_pixels if high is None else high
    if low is None:
        low = spec.image.min_pixels if plan.max_pixels is None else min(spec.image.min_pixels, high)
    least = spec.image.factor**2
    small = [f"max_pixels {high}"] if high < least else []
    if low < 1 and (plan.min_pixels is not None or not small):  # else it was derived from max_pixels
        small.insert(0, f"min_pixels {low}")
    if small:
        verb = "is" if len(small) == 1 else "are"
        raise ExportError(f"{joined(small)} {verb} too small", fix=f"an image token has {least} pixels")
    if low > high:
        raise ExportError(f"min_pixels {low} is above max_pixels {high}", fix="lower --min-pixels")
    return low, high


def _length(plan: ExportPlan, spec: ModelSpec) -> int:
    length = min(DEFAULT_MAX_LENGTH, spec.max_positions) if plan.max_length is None else plan.max_length
    if not 1 < length <= spec.max_positions:
        raise ExportError(
            f"--max-length {length} is not within the model's {spec.max_positions} positions",
            fix=f"give 2 to {spec.max_positions}",
        )
    return length
