"""The export as a list of stages: locate, read the spec, build two graphs, stream the weights, write the bundle."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import msgspec
import onnx_ir as ir

from qvl_runtime.manifest import DECODE, GraphEntry, Manifest

from . import atomic, bundle, describe, families, hub, layouts, targets, texts
from .checkpoint import Checkpoint
from .errors import ConfigError, ExportError
from .families.spec import ModelSpec
from .graph import build, weights
from .quant import precision, rotate, save_gptq, schemes, stored
from .quant.pages import select
from .quant.quantizer import MIXED, Quantizer
from .quant.saved import SavedLinear
from .quant.search import Limit
from .quant.sensitivities import Sensitivity
from .quant.work import Quantized
from .safetensors_file import Tensor

DEFAULT_MAX_LENGTH = 8192
BUILD: dict[str, Callable[..., build.Graph]] = {
    "vision": build.build_vision,
    "llm": build.build_llm,
    DECODE: partial(build.build_llm, name=DECODE),
}
UNUSED_TENSORS = ("*rotary_emb.inv_freq", "*rotary_pos_emb.inv_freq")
"""Buffers that old checkpoints saved; they are computed."""


class Progress(Protocol):
    """Told what an export is doing; `advance` counts bytes of weights read out of `total`."""

    def stage(self, text: str, total: int = 0) -> None: ...
    def advance(self, count: int) -> None: ...


class Silent:
    """Says nothing."""

    def stage(self, text: str, total: int = 0) -> None: ...
    def advance(self, count: int) -> None: ...


@dataclass(frozen=True)
class ExportPlan:
    """What to export, where to, and how.

    `checkpoint` is a directory or a Hugging Face id; `min_pixels` and `max_pixels` override the checkpoint's;
    `max_length` bounds prompt and answer together (8,192, or the model's limit if that is lower); `accuracy_level` 4
    multiplies 4- and 8-bit weights with activations rounded to int8, 0 keeps activations float32. Linears that the
    checkpoint holds quantized (GPTQ) are used as they are. `precision` "int8" multiplies integers in both towers
    (W8A8), "int4" does so in the vision tower and has the language model's weights in int4 by GPTQ, `block_size`
    columns a scale, "hybrid" holds the language model twice, in int8 for prompts and in int4 for answers;
    `vision_precision` and `llm_precision` choose for one tower. Both are calibrated on up to `samples`
    pages spread over `calib`, one path or several: calibration sets (directories with `labels.jsonl`), images, PDFs,
    directories of these; the built-in set where there are none. `reduce_range` makes int8 weights fast on x86
    without VNNI, at some accuracy. `max_kl` (mean divergence of answers from the checkpoint's, nats a token) or
    `max_size` (bytes) instead of a precision chooses one for every linear, by what each costs on the pages.
    `vision_weight` is what an image token counts in the Hessians of GPTQ, a text token counting one. The directory
    `save_gptq` gets the int4 language model as a GPTQ checkpoint too. `rotate` folds a rotation of hidden states into
    the weights of the language model, which changes no answer of a float bundle and makes a quantized
    one more accurate where few channels are far larger than the others (see docs/decisions.md). `layout` "genai" makes
    a directory for ONNX Runtime GenAI instead of a bundle (see docs/interop.md).
    """

    checkpoint: str | Path
    out: str | Path
    target: str = "cpu"
    precision: str = "fp16"
    min_pixels: int | None = None
    max_pixels: int | None = None
    max_length: int | None = None
    revision: str | None = None
    force: bool = False
    accuracy_level: int = 4
    vision_precision: str | None = None
    llm_precision: str | None = None
    reduce_range: bool = False
    max_kl: float | None = None
    max_size: int | None = None
    block_size: int = 32
    calib: str | Path | Sequence[str | Path] = ()
    samples: int = 128
    vision_weight: float = 1.0
    save_gptq: str | Path | None = None
    rotate: bool = False
    layout: str = "qvl"


def export(plan: ExportPlan, progress: Progress | None = None) -> Manifest:
    """Make a bundle and return its manifest; nothing is left behind on an error.

    Raises ExportError (ConfigError, CheckpointError, HubError, OutputError).
    """
    progress, out, layout = progress or Silent(), Path(plan.out), layouts.find(plan.layout)
    limit = _limit(plan)
    precisions = (
        dict.fromkeys(precision.TOWERS, MIXED)
        if limit
        else precision.of_towers(plan.precision, plan.vision_precision, plan.llm_precision)
    )
    lowered = {
        tower: targets.lower(plan.target, precision.of_floats(chosen, plan.precision), plan.accuracy_level)
        for tower, chosen in precisions.items()
    }
    atomic.check_free(out, plan.force, layout.PRODUCT)
    progress.stage(f"locating {plan.checkpoint}")
    checkpoint, revision = hub.locate(str(plan.checkpoint), plan.revision)
    source = describe.Source(str(plan.checkpoint), checkpoint.directory, revision)
    spec = _adjust(families.read_spec(checkpoint), plan)
    _check_depth(spec, checkpoint)
    layout.check(spec, plan.target, precisions)
    tensors = rotate.rotated(checkpoint.tensors, spec)
    progress.stage(f"building the graphs of {spec.family}")
    own = stored.quantized_linears(checkpoint)
    if plan.save_gptq is not None:
        _check_save_gptq(plan, spec, precisions, lowered["llm"])
    quantizer = _quantizer(plan, spec, checkpoint, tensors, precisions, lowered, already=bool(own))
    sources = _match(spec, tensors, checkpoint.directory, lowered, own)
    with atomic.writing(out, plan.force, layout.PRODUCT) as directory:
        text_files = texts.write(checkpoint, spec, directory)
        files = {name: bundle.file_entry(directory / name) for name in text_files}
        entries: dict[str, GraphEntry] = {}
        graphs: dict[str, build.Graph] = {}
        stored_before: dict[str, ir.ExternalTensor] = {}
        quantized = Quantized()
        read_hash = hashlib.sha256()
        for tower, target in lowered.items():
            draft = describe.manifest(spec, plan.target, entries, files, describe.origin(source, read_hash))
            if quantizer:
                quantized = quantizer.tower(tower, draft, directory, quantized, progress.stage)
            linears: dict[str, stored.QuantizedSource] = {**own, **quantized.linears}
            forms = {name: linear.layout() for name, linear in linears.items()}
            graph = graphs[tower] = BUILD[tower](spec, target, forms)
            filled = {**sources, **quantized.tensors, **stored.packed_parts(linears, target)}
            progress.stage(f"writing {tower}", weights.source_bytes(graph, filled))
            data = directory / f"{tower}.onnx.data"
            written = weights.write(graph, filled, data, read_hash, progress.advance, stored_before)
            stored_before |= weights.stored(graph)
            bundle.save_graph(graph, directory)
            entries[tower] = describe.graph_entry(
                graph, written, precision.of_floats(precisions[tower], plan.precision)
            )
            files[data.name] = bundle.file_entry(data, written.sha256)
            files[f"{tower}.onnx"] = bundle.file_entry(directory / f"{tower}.onnx")
        origin = describe.origin(source, read_hash, quantizer.calibration(progress.stage) if quantizer else None)
        manifest = describe.manifest(spec, plan.target, entries, files, origin)
        layout.finish(directory, layouts.Finished(checkpoint, spec, lowered, graphs, manifest))
        if plan.save_gptq is not None:
            save_gptq.save(Path(plan.save_gptq), checkpoint, linears, plan.force, progress.stage, progress.advance)
    if quantizer:
        quantizer.clean()
    return manifest


def _check_save_gptq(plan: ExportPlan, spec: ModelSpec, precisions: Mapping[str, str], target: targets.Target) -> None:
    """Refuse what cannot be saved as a GPTQ checkpoint, before the long work."""
    assert plan.save_gptq is not None
    if precisions["llm"] != "int4":
        raise ExportError("--save-gptq writes what was quantized", fix="add --llm-precision int4, or leave it out")
    scheme = schemes.find("int4", _options(plan))
    shapes = build.llm_weights(spec.text, target)
    linears = {name: SavedLinear(name, Path(), scheme.layout(shape[1]), *shape) for name, shape in shapes.items()}
    save_gptq.check(Path(plan.save_gptq), Path(plan.out), linears, plan.force)


def _options(plan: ExportPlan) -> schemes.Options:
    return schemes.Options(plan.block_size, plan.reduce_range)


def _limit(plan: ExportPlan) -> Limit | None:
    """What the precisions of single linears are to keep; raises ExportError where the plan says more than one thing."""
    given = [value for value in (plan.max_kl, plan.max_size) if value is not None]
    if not given:
        return None
    if len(given) > 1 or plan.vision_precision or plan.llm_precision or plan.precision != ExportPlan.precision:
        raise ExportError(
            "max_kl, max_size and precisions exclude one another", fix="give one of --max-kl, --max-size, --precision"
        )
    if given[0] <= 0:
        raise ExportError(f"a limit of {given[0]} cannot be kept", fix="--max-kl and --max-size are positive")
    return Limit(plan.max_kl, plan.max_size)


def _match(
    spec: ModelSpec,
    tensors: Mapping[str, Tensor],
    where: Path,
    lowered: Mapping[str, targets.Target],
    own: Mapping[str, stored.QuantizedSource],
) -> dict[str, weights.Source]:
    """The checkpoint's tensor for every parameter; refuses what does not fit before anything long begins."""
    forms = {name: linear.layout() for name, linear in own.items()}
    graphs = [BUILD[tower](spec, target, forms) for tower, target in lowered.items()]
    tied = ("lm_head.weight",) if spec.text.tied else ()
    unused = (*UNUSED_TENSORS, *tied, *stored.stored_names(own))
    parts = stored.packed_parts(own, lowered["llm"])
    return weights.match(graphs, tensors, parts, unused, where)


def _quantizer(
    plan: ExportPlan,
    spec: ModelSpec,
    checkpoint: Checkpoint,
    tensors: Mapping[str, Tensor],
    precisions: Mapping[str, str],
    lowered: Mapping[str, targets.Target],
    already: bool,
) -> Quantizer | None:
    """What quantizes the towers that are to be quantized; raises ExportError when it cannot be had."""
    wanted = {tower: chosen for tower, chosen in precisions.items() if chosen not in precision.FLOATS}
    if not wanted:
        if plan.calib:
            raise ExportError("--calib is for quantization", fix="add --precision int8 or int4, or leave it out")
        return None
    if plan.samples < 1:
        raise ExportError(f"samples is {plan.samples}", fix="calibrate on at least one page")
    if not 0 <= plan.vision_weight <= 1000:
        raise ExportError(f"vision_weight is {plan.vision_weight}", fix="0 to 1000; text tokens count 1")
    if already and "llm" in wanted:
        raise ExportError("the checkpoint is already quantized", fix="leave --llm-precision out to use it as it is")
    options = _options(plan)
    for chosen in set(wanted.values()) - {MIXED}:
        schemes.find(chosen, options)
    pages = select(plan.calib, plan.samples)
    return Quantizer(
        spec, lowered, checkpoint, tensors, Path(plan.out), wanted, options, pages, _limit(plan), plan.vision_weight
    )


def sensitivity(plan: ExportPlan, progress: Progress | None = None) -> list[Sensitivity]:
    """What each precision of each linear costs the answers on the plan's pages; `out` is not written.

    Raises ExportError as `export` does.
    """
    progress = progress or Silent()
    lowered = {tower: targets.lower(plan.target, "fp16", plan.accuracy_level) for tower in precision.TOWERS}
    progress.stage(f"locating {plan.checkpoint}")
    checkpoint, revision = hub.locate(str(plan.checkpoint), plan.revision)
    spec = _adjust(families.read_spec(checkpoint), plan)
    _check_depth(spec, checkpoint)
    own = stored.quantized_linears(checkpoint)
    if own:
        raise ExportError("the checkpoint is already quantized", fix="measure the original one")
    _match(spec, checkpoint.tensors, checkpoint.directory, lowered, own)
    source = describe.Source(str(plan.checkpoint), checkpoint.directory, revision)
    with tempfile.TemporaryDirectory(prefix="qvl-export-") as directory:
        work = Path(directory)
        texts.write(checkpoint, spec, work)
        draft = describe.manifest(spec, plan.target, {}, {}, describe.origin(source, hashlib.sha256()))
        options = _options(plan)
        pages = select(plan.calib, plan.samples)
        mixed = dict.fromkeys(precision.TOWERS, MIXED)
        return Quantizer(
            spec, lowered, checkpoint, checkpoint.tensors, work / "b", mixed, options, pages
        ).sensitivities(draft, work, progress.stage)


def _adjust(spec: ModelSpec, plan: ExportPlan) -> ModelSpec:
    """The spec with the plan's pixel bounds and length; raises ExportError when they make no sense."""
    low, high = plan.min_pixels or spec.image.min_pixels, plan.max_pixels or spec.image.max_pixels
    if plan.max_pixels and not plan.min_pixels:
        low = min(low, high)
    if low < 1 or low > high or high < spec.image.factor**2:
        raise ExportError(
            f"min_pixels {low} and max_pixels {high} are not bounds",
            fix=f"at least {spec.image.factor**2} (one image token), min not above max",
        )
    length = plan.max_length or min(DEFAULT_MAX_LENGTH, spec.max_positions)
    if not 1 < length <= spec.max_positions:
        raise ExportError(f"max_length {length} is not within the model's {spec.max_positions} positions")
    image = msgspec.structs.replace(spec.image, min_pixels=low, max_pixels=high)
    if plan.rotate and (plan.save_gptq is not None or _limit(plan)):
        raise ExportError("--save-gptq, --max-kl and --max-size want the own basis", fix="use --no-rotate")
    text = replace(spec.text, rotation_seed=rotate.SEED if plan.rotate else None)
    return replace(spec, image=image, max_positions=length, text=text)


def _check_depth(spec: ModelSpec, checkpoint: Checkpoint) -> None:
    """Refuse more layers than there are tensors, before a graph of them is built."""
    for name, depth in (("vision_config.depth", spec.vision.depth), ("num_hidden_layers", spec.text.num_layers)):
        if depth > len(checkpoint.tensors):
            raise ConfigError(
                f"{name} {depth} is more than the checkpoint's {len(checkpoint.tensors)} tensors",
                where=checkpoint.directory / "config.json",
                fix="weights and config.json are of different models",
            )
