"""Layouts of an export's output directory; one module per layout, found by its name."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, cast

from qvl_runtime.manifest import Manifest

from ...common.atomic_output import Product
from ...errors import ExportError
from ...graph.build import Graph
from ..resolve import Opened


class DirectoryLayout(Protocol):
    """Interface of a module of this package; `PRODUCT` is the kind of directory that `--force` may replace."""

    PRODUCT: Product

    def check(self, opened: Opened) -> None:
        """Raises ExportError before the long work if the layout cannot hold this export."""

    def finish(self, directory: Path, opened: Opened, graphs: Mapping[str, Graph], manifest: Manifest) -> None:
        """Completes the layout from what is already written: text files, `graphs` and their weights."""


def available() -> list[str]:
    """Returns the names of all layouts."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find(name: str) -> DirectoryLayout:
    """Returns the layout called `name`; raises ExportError if the name is unknown."""
    if name not in available():
        raise ExportError(f"layout {name!r} is not supported", fix=f"supported: {', '.join(available())}")
    return cast(DirectoryLayout, importlib.import_module(f"{__name__}.{name}"))
