"""Layout `qvl`: a bundle, for `qvl_runtime`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from qvl_runtime.manifest import Manifest

from ...bundle import files as bundle
from ...graph.build import Graph
from ..resolve import Opened

PRODUCT = bundle.BUNDLE


def check(opened: Opened) -> None:
    """Whatever can be exported can be a bundle."""


def finish(directory: Path, opened: Opened, graphs: Mapping[str, Graph], manifest: Manifest) -> None:
    """The graphs stay as they are; `bundle.json` comes last."""
    bundle.write_manifest(directory, manifest)
