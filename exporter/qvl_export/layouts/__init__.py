"""Layouts: what the directory of an export looks like; one module each, found by its name.

A module has `PRODUCT` (what `--force` may replace), `check(spec, target, towers)`, which refuses early what it cannot
hold, and `finish(directory, finished)`, which makes its files of those written so far: text files, graphs and weights.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from qvl_runtime.manifest import Manifest

from ..atomic import Product
from ..checkpoint import Checkpoint
from ..errors import ExportError
from ..families.spec import ModelSpec
from ..graph.build import Graph
from ..targets import Target


@dataclass(frozen=True)
class Finished:
    """An export whose graphs and weights are in the directory; `graphs` and `targets` by tower."""

    checkpoint: Checkpoint
    spec: ModelSpec
    targets: Mapping[str, Target]
    graphs: Mapping[str, Graph]
    manifest: Manifest


class DirectoryLayout(Protocol):
    """A module of this package."""

    PRODUCT: Product

    def check(self, spec: ModelSpec, target: str, towers: Collection[str]) -> None:
        """Raise ExportError for what the layout cannot hold."""

    def finish(self, directory: Path, finished: Finished) -> None:
        """Write what is left, and remove what the layout has no place for."""


def available() -> list[str]:
    """The layouts there are."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find(name: str) -> DirectoryLayout:
    """The layout called `name`; raises ExportError for unknown names."""
    if name not in available():
        raise ExportError(f"layout {name!r} is not supported", fix=f"supported: {', '.join(available())}")
    return cast(DirectoryLayout, importlib.import_module(f"{__name__}.{name}"))
