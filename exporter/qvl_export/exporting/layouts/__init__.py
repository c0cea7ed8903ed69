"""Layouts: what the directory of an export looks like; one module each, found by its name."""

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
    """A module of this package; `PRODUCT` is what `--force` may replace."""

    PRODUCT: Product

    def check(self, opened: Opened) -> None:
        """Raise ExportError for what the layout cannot hold, before the long work."""

    def finish(self, directory: Path, opened: Opened, graphs: Mapping[str, Graph], manifest: Manifest) -> None:
        """Make the layout of what was written so far: text files, `graphs` and their weights."""


def available() -> list[str]:
    """The layouts there are."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find(name: str) -> DirectoryLayout:
    """The layout called `name`; raises ExportError for unknown names."""
    if name not in available():
        raise ExportError(f"layout {name!r} is not supported", fix=f"supported: {', '.join(available())}")
    return cast(DirectoryLayout, importlib.import_module(f"{__name__}.{name}"))
