"""Graphs inside of nodes: branches of If, bodies of Loop and Scan."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir
from onnxscript import OpBuilder


def subgraph(
    op: OpBuilder,
    name: str,
    trace: Callable[..., ir.Value | tuple[ir.Value, ...]],
    outputs: Sequence[ir.DataType],
    inputs: Sequence[ir.Value] = (),
) -> ir.Graph:
    """A graph whose values are named after `name`, as those of an inner graph must not have the names of outer ones.

    `outputs` are the types of what `trace` returns for a builder and the `inputs`.
    """

    def named(op: OpBuilder, *values: ir.Value) -> ir.Value | tuple[ir.Value, ...]:
        op.builder.push_module(name)
        try:
            return trace(op, *values)
        finally:
            op.builder.pop_module()

    results = [ir.Value(type=ir.TensorType(kind)) for kind in outputs]
    graph: ir.Graph = op.builder.subgraph(named, list(inputs), results, name=name)
    return graph
