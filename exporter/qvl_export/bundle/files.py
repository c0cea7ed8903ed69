"""Writes a bundle: its parts, and the directory, which appears only when complete."""

from __future__ import annotations

import os
import shutil
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec
import onnx_ir as ir

from qvl_runtime.bundle import sha256
from qvl_runtime.manifest import MANIFEST, FileEntry, Manifest

from ..common import atomic_output as atomic
from ..graph.build import Graph
from ..graph.row_pieces import cut_weights

BUNDLE = atomic.OutputKind("a bundle", (MANIFEST,))


def writing(out: Path, force: bool) -> AbstractContextManager[Path]:
    """Yields a directory that becomes the bundle `out` if the block succeeds; see `atomic.writing`."""
    return atomic.writing(out, force, BUNDLE)


def check_free(out: Path, force: bool) -> None:
    """Raises OutputError if `out` exists without `force`, or is not a bundle."""
    atomic.check_free(out, force, BUNDLE)


def save_graph(graph: Graph, directory: Path) -> None:
    """Writes the graph's protobuf; its weights stay in the external data file that they were written to."""
    ir.save(cut_weights(graph.model), directory / f"{graph.name}.onnx")


def file_entry(path: Path, digest: str | None = None) -> FileEntry:
    """Returns size and hash of a finished file."""
    return FileEntry(size=path.stat().st_size, sha256=digest or sha256(path))


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Writes `bundle.json`, the last file of a bundle."""
    encoded = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    msgspec.json.decode(encoded, type=Manifest)  # raises if it cannot be read back
    (directory / MANIFEST).write_bytes(encoded + b"\n")


def link_files(manifest: Manifest, source: Path, directory: Path) -> None:
    """Puts the files of the bundle `source` into another directory: as hard links if the file system supports them."""
    for name in manifest.files:
        try:
            os.link(source / name, directory / name)
        except OSError:
            shutil.copyfile(source / name, directory / name)
