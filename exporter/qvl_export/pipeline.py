"""The export as a list of stages: locate, read the spec, build two graphs, stream the weights, write the bundle."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import msgspec
from tokenizers import Tokenizer

from qvl_runtime.chat import ChatTemplate
from qvl_runtime.manifest import SCHEMA_VERSION, GraphEntry, LlmGeometry, Manifest, Provenance

from . import __version__, bundle, families, hub, targets
from .checkpoint import Checkpoint
from .errors import ConfigError, ExportError
from .families.spec import ModelSpec
from .graph import build, weights
from .graph.weights import Written
from .quant import stored

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
    checkpoint holds quantized (GPTQ) are used as they are; `precision` is that of the others.
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


def export(plan: ExportPlan, progress: Progress | None = None) -> Manifest:
    """Make a bundle and return its manifest; nothing is left behind on an error.

    Raises ExportError (ConfigError, CheckpointError, HubError, OutputError).
    """
    progress, out = progress or _Silent(), Path(plan.out)
    target = targets.lower(plan.target, plan.precision, plan.accuracy_level)
    bundle.check_free(out, plan.force)
    progress.stage(f"locating {plan.checkpoint}")
    checkpoint, revision = hub.locate(str(plan.checkpoint), plan.revision)
    spec = _adjust(families.read_spec(checkpoint), plan)
    _check_depth(spec, checkpoint)
    progress.stage(f"building the graphs of {spec.family}")
    linears = stored.quantized_linears(checkpoint)
    layouts = {name: linear.layout() for name, linear in linears.items()}
    graphs = [build.build_vision(spec, target, layouts), build.build_llm(spec, target, layouts)]
    tied = ("lm_head.weight",) if spec.text.tied else ()
    unused = (*UNUSED_TENSORS, *tied, *stored.stored_names(linears))
    parts = stored.packed_parts(linears, target)
    sources = weights.match(graphs, checkpoint.tensors, parts, unused, checkpoint.directory)
    with bundle.writing(out, plan.force) as directory:
        text_files = _write_text_files(checkpoint, spec, directory)
        progress.stage("writing weights", sum(source.nbytes for source in sources.values()))
        read_hash = hashlib.sha256()
        written = {
            graph.name: weights.write(
                graph, sources, directory / f"{graph.name}.onnx.data", read_hash, progress.advance
            )
            for graph in graphs
        }
        for graph in graphs:
            bundle.save_graph(graph, directory)
        origin = _provenance(plan, checkpoint, revision, read_hash.hexdigest())
        manifest = _manifest(spec, plan, graphs, written, directory, text_files, origin)
        bundle.write_manifest(directory, manifest)
    return manifest


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


def _write_text_files(checkpoint: Checkpoint, spec: ModelSpec, directory: Path) -> list[str]:
    """`tokenizer.json` and `chat_template.jinja`, both tried before the long work."""
    tokenizer = checkpoint.text("tokenizer.json")
    if tokenizer is None:
        raise ConfigError(
            "tokenizer.json is missing",
            where=checkpoint.directory,
            fix="AutoTokenizer.from_pretrained(…).save_pretrained(…)",
        )
    try:
        vocabulary = Tokenizer.from_str(tokenizer)
    except Exception as error:  # tokenizers raises bare Exception
        raise ConfigError(f"is not a tokenizer: {error}", where=checkpoint.directory / "tokenizer.json") from error
    for token in (spec.tokens.image, spec.tokens.video, *spec.tokens.stop):
        if token >= spec.text.vocab_size or vocabulary.id_to_token(token) is None:
            raise ConfigError(
                f"special token {token} of config.json is not in tokenizer.json", where=checkpoint.directory
            )
    template, where = _chat_template(checkpoint)
    ChatTemplate(template, where).render([{"role": "user", "content": [{"type": "image"}]}])
    (directory / "tokenizer.json").write_text(tokenizer, "utf-8")
    (directory / "chat_template.jinja").write_text(template, "utf-8")
    return ["tokenizer.json", "chat_template.jinja"]


def _chat_template(checkpoint: Checkpoint) -> tuple[str, Path]:
    """From its own file, or from where older checkpoints keep it, and which file that was."""
    if template := checkpoint.text("chat_template.jinja"):
        return template, checkpoint.directory / "chat_template.jinja"
    for name in ("chat_template.json", "tokenizer_config.json"):
        template = (checkpoint.json(name) or {}).get("chat_template")
        if isinstance(template, str):
            return template, checkpoint.directory / name
    raise ConfigError(
        "has no chat template", where=checkpoint.directory, fix="copy chat_template.jinja from the base model"
    )


def _provenance(plan: ExportPlan, checkpoint: Checkpoint, revision: str | None, weights_sha256: str) -> Provenance:
    config = (checkpoint.directory / "config.json").read_bytes()
    name = str(plan.checkpoint) if revision else checkpoint.directory.resolve().name
    return Provenance(
        checkpoint=name,
        revision=revision,
        config_sha256=hashlib.sha256(config).hexdigest(),
        weights_sha256=weights_sha256,
        producer=f"qvl-export {__version__}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _manifest(
    spec: ModelSpec,
    plan: ExportPlan,
    graphs: Sequence[build.Graph],
    written: dict[str, Written],
    directory: Path,
    text_files: list[str],
    provenance: Provenance,
) -> Manifest:
    entries = {
        graph.name: GraphEntry(
            model=f"{graph.name}.onnx",
            data=f"{graph.name}.onnx.data",
            inputs=graph.inputs,
            outputs=graph.outputs,
            precision=written[graph.name].precision(plan.precision),
            weight_bytes=written[graph.name].weight_bytes,
        )
        for graph in graphs
    }
    files: dict[str, Any] = {name: bundle.file_entry(directory / name) for name in text_files}
    for name, entry in entries.items():
        files[entry.model] = bundle.file_entry(directory / entry.model)
        files[entry.data] = bundle.file_entry(directory / entry.data, written[name].sha256)
    return Manifest(
        schema_version=SCHEMA_VERSION,
        family=spec.family,
        target=plan.target,
        image=spec.image,
        llm=LlmGeometry(
            hidden_size=spec.text.hidden_size,
            vocab_size=spec.text.vocab_size,
            num_layers=spec.text.num_layers,
            num_key_value_heads=spec.text.num_key_value_heads,
            head_dim=spec.text.head_dim,
            max_length=spec.max_positions,
        ),
        tokens=spec.tokens,
        video=spec.video,
        graphs=entries,
        files=files,
        provenance=provenance,
    )
