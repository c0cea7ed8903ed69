"""Layout `qvl`: a bundle, for `qvl_runtime`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from qvl_runtime.manifest import Manifest

from ...bundle import files as bundle
from ...graph.build import Graph
from ..resolved_export import ResolvedExport

OUTPUT_KIND = bundle.BUNDLE


def check(resolved: ResolvedExport) -> None:
    """Accepts everything: a bundle can hold any export."""


def finish(directory: Path, resolved: ResolvedExport, graphs: Mapping[str, Graph], manifest: Manifest) -> None:
    """Writes `bundle.json`, the last file; the graphs stay unchanged."""
    bundle.write_manifest(directory, manifest)
