"""Engines that run a bundle's graphs: one module per target, found by its name."""

from __future__ import annotations

import importlib
import os
import pkgutil
from pathlib import Path
from typing import Any

from ..errors import BundleError, PromptError
from ..manifest import Manifest
from .engine import Engine

SHARED = ("engine", "feeds", "layer_states", "snapshots")
"""The modules here that do not implement a target."""


def cores() -> int:
    """Returns the number of cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available() -> list[str]:
    """Returns the targets this runtime has an engine for."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in found if name not in SHARED and not name.startswith("_"))


def open_engine(bundle: Path, manifest: Manifest, threads: int | None, device: str | None = None) -> Engine:
    """Opens the engine of the bundle's target on a `device` of its engine (None: the target's default).

    Raises BundleError for a target that this runtime does not know, PromptError for a device if the target has no
    choice of one.
    """
    module = _module(bundle, manifest)
    if device is not None and not hasattr(module, "DEVICES"):
        raise PromptError(f"target {manifest.target} has no choice of a device", fix="leave it out")
    engine: Engine = module.open(bundle, manifest, threads, *(() if device is None else (device,)))
    return engine


def check_engine(bundle: Path, manifest: Manifest) -> None:
    """Raises the errors of `open_engine` that can be found without reading a graph.

    They are InstallError for a library that is missing, EngineError without a GPU that the target needs, and
    BundleError for an unknown target and for engines that are not built.
    """
    module = _module(bundle, manifest)
    if hasattr(module, "check"):
        module.check(bundle, manifest)


def _module(bundle: Path, manifest: Manifest) -> Any:
    """Returns the module of the bundle's target, which may import the library of its engine."""
    if manifest.target not in available():
        raise BundleError(
            f"is for target {manifest.target!r}; this runtime has {', '.join(available())}",
            where=bundle,
            fix="install the qvl-runtime that matches the qvl-export that wrote it, or export for one of these",
        )
    return importlib.import_module(f"{__name__}.{manifest.target}")
