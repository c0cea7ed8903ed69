"""Layouts of an export's output directory; one module per layout, found by its name."""

from __future__ import annotations

import importlib
import pkgutil
from typing import cast

from ...errors import ExportError
from ..resolved_export import DirectoryLayout


def available() -> list[str]:
    """Returns the names of all layouts."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find(name: str) -> DirectoryLayout:
    """Returns the layout called `name`; raises ExportError if the name is unknown."""
    if name not in available():
        raise ExportError(f"layout {name!r} is not supported", fix=f"supported: {', '.join(available())}")
    return cast(DirectoryLayout, importlib.import_module(f"{__name__}.{name}"))
