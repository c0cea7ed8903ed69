"""Layouts of an export's output directory; one module per layout, found by its name."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, cast

from qvl_runtime.manifest import Manifest

from ...common.atomic_output import OutputKind
from ...errors import ExportError
from ...graph.build import Graph
from ..resolve import ResolvedExport


class DirectoryLayout(Protocol):
    """Interface of a module of this package; `OUTPUT_KIND` is the kind of directory that `--force` may replace."""

    OUTPUT_KIND: OutputKind

    def check(self, opened: ResolvedExport) -> None:
        """Raises ExportError before the long work if the layout cannot hold this export."""

    def finish(self, directory: Path, opened: ResolvedExport, graphs: Mapping[str, Graph], manifest: Manifest) -> None:
        """Completes the layout from what is already written: text files, `graphs` and their weights."""


def available() -> list[str]:
    """Returns the names of all layouts."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find(name: str) -> DirectoryLayout:
    """Returns the layout called `name`; raises ExportError if the name is unknown."""
    if name not in available():
        raise ExportError(f"layout {name!r} is not supported", fix=f"supported: {', '.join(available())}")
    return cast(DirectoryLayout, importlib.import_module(f"{__name__}.{name}"))
