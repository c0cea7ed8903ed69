"""Copies a bundle so that its graphs also output inner values: residual streams, and the linears of a stage."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import onnx

from qvl_runtime.bundle import read_manifest
from qvl_runtime.errors import BundleError
from qvl_runtime.manifest import Manifest

from ...bundle.files import file_entry, link_files, write_manifest
from ...common.scratch import scratch
from ...targets import DEFERRED_SCALE

STREAM = re.compile(r"(vision\.blocks|llm\.layers)\.(\d+)")
PRODUCTS = (
    "MatMul",
    "FusedMatMul",
    "Gemm",
    "MatMulNBits",
    "DynamicQuantizeMatMul",
    "MatMulInteger",
    "MatMulIntegerToFloat",
)


def expose(bundle: Path, into: str | None, directory: Path) -> dict[str, list[str]]:
    """Copies a bundle to `directory` with additional graph outputs; returns their names by graph."""
    manifest = _open(bundle)
    names, files = {}, dict(manifest.files)
    link_files(manifest, bundle, directory)
    for graph, entry in manifest.graphs.items():
        names[graph] = _expose(directory / entry.model, into)
        files[entry.model] = file_entry(directory / entry.model)
    write_manifest(directory, msgspec.structs.replace(manifest, files=files))
    return names


@contextlib.contextmanager
def copy_directory(bundle: Path, fallback: Path) -> Iterator[Path]:
    """Yields a temporary directory for the copy, on the bundle's file system so that it can use hard links.

    If that cannot be written, the directory is in `fallback`.
    """
    with contextlib.ExitStack() as stack:
        try:
            directory = stack.enter_context(scratch(bundle.resolve().parent))
        except OSError:
            directory = fallback / "copy"
            directory.mkdir()
        yield directory


def residual_streams(bundle: Path) -> list[str]:
    """Returns the residual streams of a bundle's graphs in order; raises BundleError if it has engines."""
    graphs = _open(bundle).graphs.values()
    models = (onnx.load(bundle / entry.model, load_external_data=False) for entry in graphs)
    found = (name for model in models for node in model.graph.node for name in node.output if STREAM.fullmatch(name))
    return list(dict.fromkeys(found))


def _open(bundle: Path) -> Manifest:
    """Reads the manifest of a bundle; raises BundleError if it has engines instead of graphs."""
    manifest = read_manifest(bundle)
    if any(entry.engine for entry in manifest.graphs.values()):
        raise BundleError(
            "contains engines, whose inner values cannot be read", where=bundle, fix="export with --target portable"
        )
    return manifest


def _expose(path: Path, into: str | None) -> list[str]:
    """Rewrites a graph with additional outputs; returns their names in order."""
    model = onnx.load(path, load_external_data=False)
    inner = set(linears(model.graph, into))
    names = [name for node in model.graph.node for name in node.output if STREAM.fullmatch(name) or name in inner]
    for name in names:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    path.unlink()  # a hard link: the bundle's own file must stay as it is
    path.write_bytes(model.SerializeToString())
    return names


def linears(graph: Any, stage: str | None) -> list[str]:
    """Renames the outputs of a stage's linears, after the bias, to `stage/linear`; returns these names in run order.

    A value's name contains the module that computes it; a module is a linear if it multiplies one input with matrices,
    unlike attention and experts. If it does so in parts, their outputs are concatenated.
    """
    match = STREAM.fullmatch(stage or "")
    if not match:
        return []
    prefix = f"{'visual.blocks' if match[1] == 'vision.blocks' else 'model.layers'}.{match[2]}."
    scope = re.compile(rf"v_{re.escape(prefix)}(.+)\.[^.]+")
    ends: dict[str, list[Any]] = {}
    inputs: dict[str, set[str]] = {}
    cast = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Cast"}  # each part casts its input
    for node in graph.node:
        if not (found := scope.fullmatch(node.output[0])):
            continue
        name = f"{stage}/{found[1]}"
        if node.op_type in PRODUCTS:
            ends.setdefault(name, []).append(node)
            inputs.setdefault(name, set()).add(cast.get(node.input[0], node.input[0]))
        elif name in ends and ends[name][-1].output[0] in node.input and node.op_type != "Split":
            ends[name] = [*(end for end in ends[name] if end.output[0] not in node.input), node]  # bias, scales, pieces
    ends = {name: nodes for name, nodes in ends.items() if len(inputs[name]) == 1}
    _rename(graph, {name: node for name, (node, *more) in ends.items() if not more and not _deferred_scale(node)})
    for name, (node, *more) in ends.items():
        if factors := _deferred_scale(node):
            _insert_after(graph, node, onnx.helper.make_node("Mul", [node.output[0], factors], [name]))
        elif more:
            parts = [part.output[0] for part in (node, *more)]
            _insert_after(graph, more[-1], onnx.helper.make_node("Concat", parts, [name], axis=-1))
    return list(ends)


def _deferred_scale(node: Any) -> str | None:
    """Returns the name of the scales that a node's output has yet to be multiplied by, if any."""
    return next((item.value for item in node.metadata_props if item.key == DEFERRED_SCALE), None)


def _insert_after(graph: Any, node: Any, new: Any) -> None:
    """Inserts a new node after another."""
    position = next(index for index, other in enumerate(graph.node) if other.output[0] == node.output[0])
    graph.node.insert(position + 1, new)


def _rename(graph: Any, nodes: Mapping[str, Any]) -> None:
    """Renames the outputs of nodes, in all nodes that use them."""
    names = {node.output[0]: name for name, node in nodes.items()}
    for node in graph.node:
        for values in (node.input, node.output):
            for index, value in enumerate(values):
                values[index] = names.get(value, value)
