"""A partly written bundle and its manifest."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import onnx_ir as ir

from qvl_runtime.manifest import Calibration, GraphEntry, Manifest

from ..bundle import files as bundle
from ..bundle import manifest as describe
from ..bundle.text_files import texts
from ..common.log import log
from ..common.progress import Progress
from ..engines import Finisher
from ..graph import weights
from ..graph.build import Graph
from ..graph.packed_sources import packed_parts
from ..quant.calibration.work_dir import TowerResult
from .resolved_export import ResolvedExport, build_graph


class BundleBuilder:
    """Writes an export to `directory`: the text files immediately, then one graph after another.

    `graphs` holds the written graphs by name.
    """

    def __init__(self, resolved: ResolvedExport, directory: Path) -> None:
        self.directory = directory
        self._resolved = resolved
        names = texts.write(resolved.texts, directory)
        self._files = {name: bundle.file_entry(directory / name) for name in names}
        self.graphs: dict[str, Graph] = {}
        self._entries: dict[str, GraphEntry] = {}
        self._stored: dict[str, ir.ExternalTensor] = {}
        self._read_hash = hashlib.sha256()

    def manifest(self, calibration: Calibration | None = None) -> Manifest:
        """Returns the manifest of everything written so far."""
        return self._resolved.manifest(self._entries, self._files, self._read_hash, calibration)

    def add(self, name: str, tower_result: TowerResult, progress: Progress) -> None:
        """Writes a graph and its weights; tensors in `tower_result` replace those of the checkpoint."""
        resolved, target = self._resolved, self._resolved.targets[name]
        linears = resolved.linears(tower_result)
        began = time.perf_counter()
        graph = self.graphs[name] = build_graph(name, resolved.spec, target, linears)
        sources = {**resolved.sources, **tower_result.tensors, **packed_parts(linears, target)}
        progress.stage(f"writing {name}", weights.source_bytes(graph, sources))
        data = self.directory / f"{name}.onnx.data"
        written = weights.write(
            graph, sources, data, self._read_hash, progress.advance, self._stored, target.largest_file
        )
        self._stored |= weights.stored(graph)
        bundle.save_graph(graph, self.directory)
        size, nodes = sum(written.weight_bytes.values()), len(graph.model.graph)
        log.debug("graph written: %s, %d nodes, %d bytes, %.3f s", name, nodes, size, time.perf_counter() - began)
        self._entries[name] = describe.graph_entry(graph, written, resolved.floats(name))
        self._files |= {
            file: bundle.file_entry(self.directory / file, digest) for file, digest in written.hashes.items()
        }
        self._files[f"{name}.onnx"] = bundle.file_entry(self.directory / f"{name}.onnx")

    def finish_with(self, finisher: Finisher, progress: Progress) -> None:
        """Builds engines from the graphs with `finisher`, and updates the file list."""
        finished = finisher(self.directory, self.manifest(), progress)
        self._entries = finished.graphs
        for name in finished.dropped:
            (self.directory / name).unlink()
            del self._files[name]
        self._files |= {name: bundle.file_entry(self.directory / name) for name in finished.added}
