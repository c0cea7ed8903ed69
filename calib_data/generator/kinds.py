"""The kinds of pages, found by name: a module of this package `<kind>.py` with a function `<kind>_page(rng)`.

Such a module also names in `FONTS` the fonts it may draw with. Adding a kind is adding one file.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random
from types import ModuleType

from . import fonts
from .page import Page


@dataclass(frozen=True)
class Kind:
    name: str
    make: Callable[[Random], Page]
    fonts: tuple[str, ...]
    """Keys of fonts.py."""


@lru_cache(maxsize=1)
def kinds() -> dict[str, Kind]:
    """Every kind by its name, in alphabetical order."""
    names = sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
    modules = {name: importlib.import_module(f"{__package__}.{name}") for name in names if name != "__main__"}
    return {name: _kind(name, module) for name, module in modules.items() if hasattr(module, f"{name}_page")}


def _kind(name: str, module: ModuleType) -> Kind:
    return Kind(name, getattr(module, f"{name}_page"), tuple(fonts.key_of(font) for font in module.FONTS))
