"""The export as a list of stages: locate, read the spec, build two graphs, stream the weights, write the bundle."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import msgspec

from qvl_runtime.manifest import GraphEntry, Manifest

from . import bundle, describe, families, hub, targets, texts
from .checkpoint import Checkpoint
from .errors import ConfigError, ExportError
from .families.spec import ModelSpec
from .graph import build, weights
from .quant import precision, rotate, schemes, stored
from .quant.quantizer import Quantizer
from .quant.work import Quantized
from .safetensors_file import Tensor

DEFAULT_MAX_LENGTH = 8192
BUILD = {"vision": build.build_vision, "llm": build.build_llm}
UNUSED_TENSORS = ("*rotary_emb.inv_freq", "*rotary_pos_emb.inv_freq")
"""Buffers that old checkpoints saved; they are computed."""


class Progress(Protocol):
    """Told what an export is doing; `advance` counts bytes of weights read out of `total`."""

    def stage(self, text: str, total: int = 0) -> None: ...
    def advance(self, count: int) -> None: ...


class _Silent:
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
    columns a scale; `vision_precision` and `llm_precision` choose for one tower. Both are calibrated on up to `samples`
    lines of the set in the directory `calib`. `reduce_range` makes int8 weights fast on x86
    without VNNI, at some accuracy. `rotate` folds a rotation of hidden states into the weights of the language model,
    which changes no answer of a float bundle and makes a quantized one more accurate where few channels are far larger
    than the others (see docs/decisions.md).
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
    block_size: int = 32
    calib: str | Path | None = None
    samples: int = 128
    rotate: bool = False


def export(plan: ExportPlan, progress: Progress | None = None) -> Manifest:
    """Make a bundle and return its manifest; nothing is left behind on an error.

    Raises ExportError (ConfigError, CheckpointError, HubError, OutputError).
    """
    progress, out = progress or _Silent(), Path(plan.out)
    precisions = precision.of_towers(plan.precision, plan.vision_precision, plan.llm_precision)
    lowered = {
        tower: targets.lower(plan.target, precision.of_floats(chosen), plan.accuracy_level)
        for tower, chosen in precisions.items()
    }
    bundle.check_free(out, plan.force)
    progress.stage(f"locating {plan.checkpoint}")
    checkpoint, revision = hub.locate(str(plan.checkpoint), plan.revision)
    source = describe.Source(str(plan.checkpoint), checkpoint.directory, revision)
    spec = _adjust(families.read_spec(checkpoint), plan)
    _check_depth(spec, checkpoint)
    tensors = rotate.rotated(checkpoint.tensors, spec)
    progress.stage(f"building the graphs of {spec.family}")
    own = stored.quantized_linears(checkpoint)
    quantizer = _quantizer(plan, spec, checkpoint, tensors, precisions, lowered, already=bool(own))
    sources = _match(spec, tensors, checkpoint.directory, lowered, own)
    with bundle.writing(out, plan.force) as directory:
        text_files = texts.write(checkpoint, spec, directory)
        files = {name: bundle.file_entry(directory / name) for name in text_files}
        entries: dict[str, GraphEntry] = {}
        read_hash = hashlib.sha256()
        for tower, target in lowered.items():
            draft = describe.manifest(spec, plan.target, entries, files, describe.origin(source, read_hash))
            quantized = quantizer.tower(tower, draft, directory, progress.stage) if quantizer else Quantized()
            linears: dict[str, stored.QuantizedSource] = {**own, **quantized.linears}
            layouts = {name: linear.layout() for name, linear in linears.items()}
            graph = BUILD[tower](spec, target, layouts)
            filled = {**sources, **quantized.tensors, **stored.packed_parts(linears, target)}
            progress.stage(f"writing {tower}", weights.source_bytes(graph, filled))
            data = directory / f"{tower}.onnx.data"
            written = weights.write(graph, filled, data, read_hash, progress.advance)
            bundle.save_graph(graph, directory)
            entries[tower] = describe.graph_entry(graph, written, precision.of_floats(precisions[tower]))
            files[data.name] = bundle.file_entry(data, written.sha256)
            files[f"{tower}.onnx"] = bundle.file_entry(directory / f"{tower}.onnx")
        manifest = describe.manifest(spec, plan.target, entries, files, describe.origin(source, read_hash))
        bundle.write_manifest(directory, manifest)
    if quantizer:
        quantizer.clean()
    return manifest


def _match(
    spec: ModelSpec,
    tensors: Mapping[str, Tensor],
    where: Path,
    lowered: Mapping[str, targets.Target],
    own: Mapping[str, stored.QuantizedSource],
) -> dict[str, weights.Source]:
    """The checkpoint's tensor for every parameter; refuses what does not fit before anything long begins."""
    layouts = {name: linear.layout() for name, linear in own.items()}
    graphs = [BUILD[tower](spec, target, layouts) for tower, target in lowered.items()]
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
        if plan.calib is not None:
            raise ExportError("--calib is for quantization", fix="add --precision int8 or int4, or leave it out")
        return None
    if plan.samples < 1:
        raise ExportError(f"samples is {plan.samples}", fix="calibrate on at least one page")
    if already and "llm" in wanted:
        raise ExportError("the checkpoint is already quantized", fix="leave --llm-precision out to use it as it is")
    if plan.calib is None:
        raise ExportError("quantization is calibrated on pages", fix="give --calib, a directory with labels.jsonl")
    options = schemes.Options(plan.block_size, plan.reduce_range)
    for chosen in wanted.values():
        schemes.find(chosen, options)
    return Quantizer(
        spec, lowered, checkpoint, tensors, Path(plan.out), wanted, options, Path(plan.calib), plan.samples
    )


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
