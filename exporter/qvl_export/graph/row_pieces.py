"""Cuts float16 weights into pieces of rows that ONNX Runtime widens one at a time, product by product.

On a CPU, ONNX Runtime multiplies float32. It would widen constant weights when it loads the graph, and hold them at
twice the size of their file. A piece stays in the processor's cache while it is widened and multiplied, so that memory
is read once, in float16, from the mapped file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

PIECE = 1 << 20
"""Elements of a piece at most, 4 MiB as float32: see docs/benchmarks.md, Float16 weights."""
STEP = 16
"""Rows of a piece are a multiple of this: kernels compute 16 columns of a product at a time."""


class _Rows(NamedTuple):
    """A `number` of rows from `first` on of the stored weight [rows, columns] called `name`."""

    name: str
    weight: ir.ExternalTensor
    first: int
    number: int


def cut_weights(model: ir.Model) -> ir.Model:
    """Returns the model with a product per piece for each product with a float16 weight stored in a data file.

    Pieces are inputs whose default is an initializer, so that ONNX Runtime does not widen them when it loads the graph.
    They are ranges of the bytes of the whole weight. The given model stays as it is.
    """
    if not any(_products(model.graph)):
        return model
    cut = ir.from_proto(ir.to_proto(model))
    for node, rows in list(_products(cut.graph)):
        _cut(cut.graph, node, rows)
    RemoveUnusedNodesPass()(cut)
    return cut


def _products(graph: ir.Graph) -> Iterator[tuple[ir.Node, _Rows]]:
    """Yields each product with a widened weight, and the rows of the weight."""
    for node in graph:
        cast = node.inputs[1].producer() if node.op_type == "FusedMatMul" and node.inputs[1] is not None else None
        if cast is not None and cast.op_type == "Cast" and (rows := _stored_rows(cast.inputs[0])):
            yield node, rows


def _stored_rows(value: ir.Value | None) -> _Rows | None:
    """The rows that `value` is, the whole weight or an equal part of it; None if they are not stored as float16."""
    part, parts = 0, 1
    split = value.producer() if value is not None else None
    if value is not None and split is not None and split.op_type == "Split":
        part, parts, value = split.outputs.index(value), len(split.outputs), split.inputs[0]
    weight = value.const_value if value is not None else None
    rows_are_cut = split is None or split.attributes.get_int("axis", 0) == 0
    if value is None or not rows_are_cut or not isinstance(weight, ir.ExternalTensor):
        return None
    count = weight.shape.numpy()[0] // parts
    return _Rows(str(value.name), weight, part * count, count) if weight.dtype == ir.DataType.FLOAT16 else None


def _cut(graph: ir.Graph, node: ir.Node, rows: _Rows) -> None:
    """Replaces a product by one for each piece of its weight; its output keeps its name."""
    old, made = node.outputs[0], list[ir.Node]()
    for first, count in _pieces(rows):
        piece = _input(graph, rows, first, count)
        wide = ir.node("Cast", [piece], {"to": ir.DataType.FLOAT}, name=f"{node.name}.{first}.widened")
        made += [wide, ir.node("FusedMatMul", [node.inputs[0], wide.outputs[0]], {"transB": 1}, domain=node.domain)]
        wide.outputs[0].name, made[-1].outputs[0].name = f"{piece.name}.widened", f"{old.name}_{first}"
    products = [product.outputs[0] for product in made[1::2]]
    if len(products) > 1:
        made.append(ir.node("Concat", products, {"axis": -1}))
    new = made[-1].outputs[0]
    new.type, new.shape = old.type, old.shape
    graph.insert_before(node, made)
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    new.name = old.name


def _pieces(rows: _Rows) -> Iterator[tuple[int, int]]:
    """Yields first row, in the weight, and number of rows of each piece; pieces are of almost the same size."""
    columns = rows.weight.shape.numpy()[1]
    most = max(PIECE // columns // STEP, 1) * STEP
    size = -(-rows.number // -(-rows.number // most) // STEP) * STEP
    for first in range(0, rows.number, size):
        yield rows.first + first, min(size, rows.number - first)


def _input(graph: ir.Graph, rows: _Rows, first: int, count: int) -> ir.Value:
    """Returns rows of a weight as an input with a default."""
    weight, name = rows.weight, f"{rows.name}.{first}"
    columns = weight.shape.numpy()[1]
    row = int(columns * weight.dtype.itemsize)
    place = (weight.offset or 0) + first * row, count * row
    shape = ir.Shape([count, columns])
    value = ir.Input(name, shape=shape, type=ir.TensorType(weight.dtype))
    value.const_value = ir.ExternalTensor(
        weight.location, *place, weight.dtype, shape=shape, name=name, base_dir=weight.base_dir
    )
    graph.inputs.append(value)
    graph.register_initializer(value)
    return value
