"""Matches tensors of the checkpoint to parameters of the graphs; errors name the likely cause of a mismatch."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..checkpoint.derived_tensors import Computed
from ..checkpoint.directory import abbreviate
from ..checkpoint.safetensors_reader import FLOATS, QUANTIZED, Tensor, element_type
from ..errors import CheckpointError
from .build import Graph
from .experts import ExpertWeight
from .layers import Weight
from .weights import WeightSource, parameters, stored_sources


def match(
    graphs: Iterable[Graph],
    tensors: Mapping[str, Tensor],
    packed: Mapping[str, WeightSource],
    unused: Sequence[str],
    where: Path,
) -> dict[str, WeightSource]:
    """Returns the source of every parameter: stored tensors for weights, `packed` parts for quantized weights.

    `unused` are patterns of names that may be left over. Raises CheckpointError with the names of tensors that are
    missing, extra or of the wrong shape, and the likely cause.
    """
    wanted = {name: value for graph in graphs for name, value in parameters(graph)}
    weights = {name: value for name, value in wanted.items() if isinstance(value, Weight)}
    if unknown := sorted(set(packed) - set(wanted)):
        raise CheckpointError(
            f"{len(unknown)} quantized tensors are not part of the model: {abbreviate(unknown)}", where=where
        )
    _check_names(set(weights), set(tensors), unused, where)
    for name, weight in weights.items():
        _check_type(name, tensors[name])
        _check_form(name, weight, tensors[name])
    return stored_sources(weights, tensors) | dict(packed)


def _check_names(wanted: set[str], stored: set[str], unused: Sequence[str], where: Path) -> None:
    missing, left = sorted(wanted - stored), sorted(stored - wanted)
    extra = [name for name in left if not any(fnmatch.fnmatchcase(name, pattern) for pattern in unused)]
    if missing:
        raise CheckpointError(
            f"{len(missing)} tensors are missing: {abbreviate(missing)}"
            + (f"; not used: {abbreviate(extra)}" if extra else ""),
            where=where,
            fix=_cause(missing, extra),
        )
    if extra:
        raise CheckpointError(
            f"{len(extra)} tensors are not part of the model: {abbreviate(extra)}",
            where=where,
            fix=_cause(missing, extra),
        )


def _check_form(name: str, weight: Weight, tensor: Tensor) -> None:
    if tensor.shape not in _shapes(weight):
        raise CheckpointError(
            f"tensor {name} has shape {list(tensor.shape)}, config.json says {list(weight.source_shape)}",
            where=tensor.file,
            fix="weights and config.json are of different models",
        )


def _check_type(name: str, tensor: Tensor) -> None:
    """Raises CheckpointError for a tensor not stored as floats, also if another tensor is computed from it."""
    while isinstance(tensor, Computed):
        tensor = tensor.source
    kind = element_type(tensor)
    if kind in QUANTIZED or kind == "F64":
        hint = "; quantized weights? export the bfloat16 release" if kind in QUANTIZED else ""
        raise CheckpointError(
            f"tensor {name} has element type {kind}", where=tensor.file, fix=f"supported: {', '.join(FLOATS)}{hint}"
        )
    if kind not in FLOATS:
        raise CheckpointError(f"tensor {name} holds integers, not weights", where=tensor.file)


def _shapes(weight: Weight) -> list[tuple[int, ...]]:
    """The shapes in which a checkpoint may store a weight; experts may be transposed."""
    shape = weight.source_shape
    return [shape, (shape[0], shape[2], shape[1])] if isinstance(weight, ExpertWeight) else [shape]


def _cause(missing: list[str], extra: list[str]) -> str:
    if any("lora_" in name or ".base_layer." in name or ".modules_to_save." in name for name in extra):
        return "a LoRA adapter is not a checkpoint: merge it with peft's merge_and_unload first"
    if any(name.endswith((".qweight", ".scales", "_scale", "_scale_inv", ".SCB", ".absmax")) for name in extra):
        return "the checkpoint is quantized: export the original one"
    if prefix := _common_prefix(missing, extra):
        return f"names begin with {prefix!r}, which is not known: save the model without what it is wrapped in"
    if "model.embed_tokens.weight" in missing and not any(name.startswith("visual.") for name in missing):
        return 'if lm_head.weight is the embedding table too, set "tie_word_embeddings": true in config.json'
    if any(".experts." in name for name in missing) and any(".experts." in name for name in extra):
        return "experts are expected as transformers saves them, all of a layer in one tensor"
    if any(name.startswith("visual.") for name in missing):
        return "a text-only or sharded part? download the whole checkpoint"
    return "weights and config.json are of different models, or a shard is missing"


def _common_prefix(missing: list[str], extra: list[str]) -> str | None:
    """The prefix with which all missing tensors are found among the extra ones, or None."""
    stored = set(extra)
    prefixes = {name.removesuffix(first) for first in missing[:1] for name in extra if name.endswith(f".{first}")}
    return next((prefix for prefix in sorted(prefixes) if all(prefix + name in stored for name in missing)), None)
