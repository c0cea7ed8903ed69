"""Builds the manifest of a bundle and its parts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qvl_runtime.manifest import (
    SCHEMA_VERSION,
    CacheForm,
    CacheSpec,
    Calibration,
    Cpu,
    FileEntry,
    GenerationDefaults,
    GraphEntry,
    LlmGeometry,
    Manifest,
    Provenance,
)
from qvl_runtime.printable import printable

from .._version import __version__
from ..families.spec import ModelSpec
from ..graph.build import Graph
from ..graph.weights import Written


@dataclass(frozen=True)
class CheckpointSource:
    """The checkpoint's name as given, its directory, and the hub's commit."""

    name: str
    directory: Path
    revision: str | None


def origin(
    source: CheckpointSource,
    read_hash: Any,
    calibration: Calibration | None,
    options: Mapping[str, str | int | float | bool],
) -> Provenance:
    """Returns the provenance; `read_hash` (hashlib) is over the weights read. A local path is reduced to its name."""
    config = (source.directory / "config.json").read_bytes()
    return Provenance(
        checkpoint=printable(source.name if source.revision else source.directory.resolve().name),
        revision=source.revision,
        config_sha256=hashlib.sha256(config).hexdigest(),
        weights_sha256=read_hash.hexdigest(),
        producer=f"qvl-export {__version__}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        calibration=calibration,
        options=dict(options),
    )


def graph_entry(graph: Graph, written: Written, floats: str) -> GraphEntry:
    """Returns a graph's files and contract; `floats` is the precision of unquantized values."""
    return GraphEntry(
        model=f"{graph.name}.onnx",
        data=f"{graph.name}.onnx.data",
        inputs=graph.inputs,
        outputs=graph.outputs,
        precision=written.precision(floats),
        weight_bytes=written.weight_bytes,
        linears={name: str(format) for name, format in sorted(graph.formats.items())},
    )


def manifest(
    spec: ModelSpec,
    target: str,
    cache_form: CacheForm,
    graphs: Mapping[str, GraphEntry],
    files: Mapping[str, FileEntry],
    provenance: Provenance,
    special_tokens: Mapping[str, str],
    generation: GenerationDefaults,
    cpu: Cpu | None,
    cache: list[CacheSpec],
) -> Manifest:
    """Returns the manifest of a bundle, which may still lack its later graphs."""
    return Manifest(
        schema_version=SCHEMA_VERSION,
        family=spec.family,
        target=target,
        cache_form=cache_form,
        image=spec.image,
        llm=_llm_geometry(spec),
        tokens=spec.tokens,
        video=spec.video,
        graphs=dict(graphs),
        files=dict(files),
        provenance=provenance,
        special_tokens=dict(special_tokens),
        generation=generation,
        cpu=cpu,
        cache=cache,
        boxes=spec.boxes,
        image_tokens=spec.image_tokens,
    )


def _llm_geometry(spec: ModelSpec) -> LlmGeometry:
    text = spec.text
    return LlmGeometry(
        hidden_size=text.hidden_size,
        vocab_size=text.vocab_size,
        num_layers=text.num_layers,
        num_key_value_heads=text.num_key_value_heads,
        head_dim=text.head_dim,
        max_length=spec.max_positions,
        deepstack_layers=text.deepstack_layers,
        rotation_seed=text.rotation_seed,
        flat_positions=text.flat_positions,
        ntk_length=text.ntk_length,
    )
