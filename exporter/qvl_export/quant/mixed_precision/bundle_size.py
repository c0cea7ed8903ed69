"""Computes the size of a bundle before it is written: builds its graphs and lays out their weights, without data.

Shapes are enough, so that a size limit that cannot be kept is refused before anything is measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import onnx_ir as ir

from qvl_runtime.manifest import FileEntry, Manifest

from ...bundle import manifest as describe
from ...families.spec import ModelSpec
from ...graph.build import Graph, build_llm, build_vision
from ...graph.layers import Weight
from ...graph.quantized import Packed
from ...graph.row_pieces import cut_weights
from ...graph.weight_files import ALIGNMENT
from ...graph.weights import Written, stored_bytes
from ...qtensor import QuantFormat
from ...targets import Target
from .search import FLOAT
from .sensitivity_table import Sensitivity

Formats = Mapping[str, QuantFormat]
"""Formats of quantized linears by name."""
NO_HASH = "0" * 64


@dataclass(frozen=True)
class Sizes:
    """Sizes of bundles with different formats of their linears; `tables` and the text files of `draft` are fixed."""

    spec: ModelSpec
    targets: Mapping[str, Target]
    tables: Formats
    draft: Manifest

    def bundle(self, formats: Formats) -> int:
        """Total bytes of all files."""
        entries, files = {}, dict(self.draft.files)
        graphs = (
            build_vision(self.spec, self.targets["vision"], formats),
            build_llm(self.spec, self.targets["llm"], {**formats, **self.tables}),
        )
        for graph in graphs:
            data, written = _lay_out(graph)
            files[f"{graph.name}.onnx.data"] = FileEntry(size=data, sha256=NO_HASH)
            files[f"{graph.name}.onnx"] = FileEntry(
                size=ir.to_proto(cut_weights(graph.model)).ByteSize(), sha256=NO_HASH
            )
            entries[graph.name] = describe.graph_entry(graph, written, FLOAT)
        manifest = msgspec.structs.replace(self.draft, graphs=entries, files=files)
        described = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
        return sum(entry.size for entry in files.values()) + len(described) + 1

    def weight(self, shape: tuple[int, int], format: QuantFormat | None) -> int:
        """Bytes of a weight including the padding after its parts; in float without a format."""
        target = self.targets["llm"]
        parts = target.packed_form(*shape, format) if format else {"weight": (list(shape), target.weight_type)}
        sizes = [stored_bytes(size, dtype) for size, dtype in parts.values()]
        return sum(size + -size % ALIGNMENT for size in sizes)

    def linears(self, table: Sequence[Sensitivity]) -> dict[tuple[str, str], int]:
        """Bytes per linear and precision: its weight, and an even share of the graph nodes that such linears add."""
        found = {(row.name, FLOAT): self.weight(row.shape, None) for row in table}
        plain = self.bundle({})
        for members in _alike(table):
            grown = self.bundle({row.name: row.formats[precision] for row, precision in members}) - plain
            weights = {
                (row.name, precision): self.weight(row.shape, row.formats[precision]) for row, precision in members
            }
            grown -= sum(size - found[name, FLOAT] for (name, _), size in weights.items())
            found |= {key: size + grown // len(members) for key, size in weights.items()}
        return found


def _alike(table: Sequence[Sensitivity]) -> list[list[tuple[Sensitivity, str]]]:
    """Groups linears and precisions by the kind of nodes that computes them."""
    kinds: dict[tuple[str, str], list[tuple[Sensitivity, str]]] = {}
    for row in table:
        for precision, format in row.formats.items():
            kinds.setdefault((precision, str(format)), []).append((row, precision))
    return list(kinds.values())


def _lay_out(graph: Graph) -> tuple[int, Written]:
    """Returns the size of the data file that `weights.write` would write; initializers then point into that file."""
    end, kinds = 0, dict[str, int]()
    for name, value in graph.model.graph.initializers.items():
        if isinstance(value, Weight | Packed):
            assert value.dtype is not None and value.shape is not None
            start, length = end + -end % ALIGNMENT, stored_bytes(value.shape.numpy(), value.dtype)
            value.const_value = ir.ExternalTensor(
                f"{graph.name}.onnx.data", start, length, value.dtype, shape=value.shape, name=name
            )
            kinds[value.dtype.name.lower()] = kinds.get(value.dtype.name.lower(), 0) + length
            end = start + length
    return end, Written(kinds, {}, graph.formats)
