"""Families: one module a `model_type`, found by its name, each with `read(Checkpoint) -> ModelSpec`."""

from __future__ import annotations

import importlib
import pkgutil

from ..checkpoint import Checkpoint
from ..errors import ConfigError
from .spec import ModelSpec

_SHARED = {"spec", "config"}


def available() -> list[str]:
    """The `model_type`s that can be exported."""
    return sorted({module.name for module in pkgutil.iter_modules(__path__)} - _SHARED)


def read_spec(checkpoint: Checkpoint) -> ModelSpec:
    """The specification of a checkpoint; raises ConfigError for an unknown `model_type` or unsupported values."""
    model_type = checkpoint.config.get("model_type")
    if model_type not in available():
        raise ConfigError(
            f"model_type {model_type!r} is not supported",
            where=checkpoint.directory / "config.json",
            fix=f"supported: {', '.join(available())}",
        )
    spec: ModelSpec = importlib.import_module(f"{__name__}.{model_type}").read(checkpoint)
    return spec
