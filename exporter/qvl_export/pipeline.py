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
from .quant import save_gptq, stored
from .quant.gptq_checkpoint import BLOCKS
from .quant.int4 import DecoderInt4
from .quant.qtensor import Layout

DEFAULT_MAX_LENGTH = 8192
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
    checkpoint holds quantized (GPTQ) are used as they are; `precision` is that of the others. `llm_precision` "int4"
    quantizes the decoder's linears in blocks of `block_size` columns with GPTQ, calibrated on up to `samples` lines of
    the set in the directory `calib`; the directory `save_gptq` gets the result as a GPTQ checkpoint too.
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
    llm_precision: str | None = None
    block_size: int = 32
    calib: str | Path | None = None
    samples: int = 128
    save_gptq: str | Path | None = None


def export(plan: ExportPlan, progress: Progress | None = None) -> Manifest:
    """Make a bundle and return its manifest; nothing is left behind on an error.

    Raises ExportError (ConfigError, CheckpointError, HubError, OutputError).
    """
    progress, out = progress or _Silent(), Path(plan.out)
    target = targets.lower(plan.target, plan.precision, plan.accuracy_level)
    bundle.check_free(out, plan.force)
    progress.stage(f"locating {plan.checkpoint}")
    checkpoint, revision = hub.locate(str(plan.checkpoint), plan.revision)
    source = describe.Source(str(plan.checkpoint), checkpoint.directory, revision)
    spec = _adjust(families.read_spec(checkpoint), plan)
    _check_depth(spec, checkpoint)
    progress.stage(f"building the graphs of {spec.family}")
    own = stored.quantized_linears(checkpoint)
    int4 = _int4(plan, spec, target, already=bool(own))
    linears: Mapping[str, stored.QuantizedSource] = int4.linears if int4 else own
    if plan.save_gptq is not None:
        save_gptq.check(Path(plan.save_gptq), out, linears, plan.force)
    layouts = {name: linear.layout() for name, linear in linears.items()}
    graphs = [build.build_vision(spec, target, layouts), build.build_llm(spec, target, layouts)]
    tied = ("lm_head.weight",) if spec.text.tied else ()
    replaced = stored.stored_names(linears)
    parts = stored.packed_parts(linears, target)
    sources = weights.match(
        graphs, checkpoint.tensors, parts, (*UNUSED_TENSORS, *tied, *replaced), checkpoint.directory
    )
    with bundle.writing(out, plan.force) as directory:
        text_files = texts.write(checkpoint, spec, directory)
        entries: dict[str, GraphEntry] = {}
        files = {name: bundle.file_entry(directory / name) for name in text_files}
        read_hash = hashlib.sha256()
        for graph in graphs:
            if graph.name == "llm" and int4:  # the vision graph that ships is there to calibrate with
                draft = describe.manifest(spec, plan.target, entries, files, describe.origin(source, read_hash))
                int4.calibrate(checkpoint, draft, directory, progress.stage)
            progress.stage(f"writing {graph.name}", weights.source_bytes(graph, sources))
            data = directory / f"{graph.name}.onnx.data"
            written = weights.write(graph, sources, data, read_hash, progress.advance)
            bundle.save_graph(graph, directory)
            entries[graph.name] = describe.graph_entry(graph, written, plan.precision)
            files[data.name] = bundle.file_entry(data, written.sha256)
            files[f"{graph.name}.onnx"] = bundle.file_entry(directory / f"{graph.name}.onnx")
        manifest = describe.manifest(spec, plan.target, entries, files, describe.origin(source, read_hash))
        bundle.write_manifest(directory, manifest)
        if plan.save_gptq is not None:
            save_gptq.save(Path(plan.save_gptq), checkpoint, linears, plan.force, progress.stage, progress.advance)
    if int4:
        int4.clean()
    return manifest


def _int4(plan: ExportPlan, spec: ModelSpec, target: targets.Target, already: bool) -> DecoderInt4 | None:
    """What `llm_precision` asks for; raises ExportError when it cannot be had."""
    if plan.llm_precision is None:
        if plan.save_gptq is not None:
            raise ExportError("--save-gptq writes what was quantized", fix="add --llm-precision int4, or leave it out")
        if plan.calib is not None:
            raise ExportError("--calib is for quantization", fix="add --llm-precision int4, or leave it out")
        return None
    if plan.samples < 1:
        raise ExportError(f"samples is {plan.samples}", fix="calibrate on at least one page")
    if plan.llm_precision != "int4" or plan.block_size not in BLOCKS:
        raise ExportError(
            f"LLM precision {plan.llm_precision!r} in blocks of {plan.block_size} is not supported",
            fix=f"int4 in blocks of {', '.join(map(str, BLOCKS))}",
        )
    if already:
        raise ExportError("the checkpoint is already quantized", fix="leave --llm-precision out to use it as it is")
    if plan.calib is None:
        raise ExportError("int4 is calibrated on pages", fix="give --calib, a directory with labels.jsonl")
    return DecoderInt4(spec, target, Path(plan.out), Layout(4, plan.block_size), Path(plan.calib), plan.samples)


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
    return replace(spec, image=image, max_positions=length)


def _check_depth(spec: ModelSpec, checkpoint: Checkpoint) -> None:
    """Refuse more layers than there are tensors, before a graph of them is built."""
    for name, depth in (("vision_config.depth", spec.vision.depth), ("num_hidden_layers", spec.text.num_layers)):
        if depth > len(checkpoint.tensors):
            raise ConfigError(
                f"{name} {depth} is more than the checkpoint's {len(checkpoint.tensors)} tensors",
                where=checkpoint.directory / "config.json",
                fix="weights and config.json are of different models",
            )
