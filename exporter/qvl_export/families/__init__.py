"""Families: one module per `model_type`, found by name, each with `read(Checkpoint) -> ModelSpec`.

A family whose tensors have other names or shapes than the graphs also has `tensors(Checkpoint)`, which maps them. If
ONNX Runtime GenAI knows the family, GENAI_TYPE is its model type there.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from ..checkpoint.directory import Checkpoint
from ..checkpoint.safetensors_reader import Tensor
from ..errors import ConfigError
from .spec import ModelSpec

_SHARED = {"spec", "config"}


def available() -> list[str]:
    """The supported `model_type`s."""
    return sorted({module.name for module in pkgutil.iter_modules(__path__)} - _SHARED)


def read_spec(checkpoint: Checkpoint) -> ModelSpec:
    """Reads the specification of a checkpoint; raises ConfigError for an unknown `model_type` or unsupported values."""
    spec: ModelSpec = _module(model_type(checkpoint)).read(checkpoint)
    return spec


def model_type(checkpoint: Checkpoint) -> str:
    """The `model_type` of `config.json`; raises ConfigError if it is not supported."""
    model_type, where = checkpoint.config.get("model_type"), checkpoint.directory / "config.json"
    if model_type in available():
        return str(model_type)
    whole = str(model_type).removesuffix("_text")
    if whole in available():
        what, fix = "a language model without its vision tower", f"export the whole {whole} model"
    else:
        what, fix = "not supported", f"supported: {', '.join(available())}"
    raise ConfigError(f"model_type {model_type!r} is {what}", where=where, fix=fix)


def tensors(checkpoint: Checkpoint, spec: ModelSpec) -> Mapping[str, Tensor]:
    """The tensors of a checkpoint by their names in the graphs."""
    module = _module(spec.family)
    found: Mapping[str, Tensor] = module.tensors(checkpoint) if hasattr(module, "tensors") else checkpoint.tensors
    return found


def genai_types() -> dict[str, str]:
    """The model types in ONNX Runtime GenAI of the families that it knows."""
    types = {family: getattr(_module(family), "GENAI_TYPE", None) for family in available()}
    return {family: found for family, found in types.items() if found is not None}


def _module(family: str) -> Any:
    return importlib.import_module(f"{__name__}.{family}")
