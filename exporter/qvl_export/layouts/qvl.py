"""Layout `qvl`: a bundle, for `qvl_runtime`."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from ..bundle import BUNDLE as PRODUCT
from ..bundle import write_manifest
from ..families.spec import ModelSpec
from . import Finished

__all__ = ["PRODUCT", "check", "finish"]


def check(spec: ModelSpec, target: str, towers: Collection[str]) -> None:
    """Everything that can be exported can be a bundle."""


def finish(directory: Path, finished: Finished) -> None:
    """The graphs stay as they are; `bundle.json` comes last."""
    write_manifest(directory, finished.manifest)
