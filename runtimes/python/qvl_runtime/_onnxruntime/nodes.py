"""Finds attributes that crash ONNX Runtime in a model file before it is opened, and reads its opset.

Parses the Protocol Buffers wire format, but only graphs, functions, nodes, and attributes that are integers or graphs;
field numbers are those of `onnx.proto`.
"""

from __future__ import annotations

from collections.abc import Iterator

GRAPH_NODE = 1
NODES_OF = {7: GRAPH_NODE, 25: 7}
"""Fields of a model that contain nodes (graph, functions) → the field of the nodes in each."""
NODE_OUTPUT, NODE_TYPE, NODE_ATTRIBUTE = 2, 4, 5
OPSET_IMPORT, OPSET_DOMAIN, OPSET_VERSION = 8, 1, 2
ATTRIBUTE_NAME, ATTRIBUTE_INT, ATTRIBUTE_GRAPHS = 1, 3, (6, 11)
VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5
MAX_FIELDS = 1 << 21
"""Maximum fields of a file: reading them takes several seconds; a graph of 40,000 nodes has 700,000."""
LARGEST = (1 << 31) - 1
"""ONNX Runtime's kernels truncate such attributes to 32 bits and divide by the result."""


def crashing_attribute(model: bytes) -> str | None:
    """Describes an attribute that would crash ONNX Runtime, or returns None if there is none.

    Raises ValueError if the bytes are not a model or have more than MAX_FIELDS fields.
    """
    budget = iter(range(MAX_FIELDS))
    holders = [(NODES_OF.get(field), value) for field, value in _fields(memoryview(model), budget)]
    while holders:
        nodes, holder = holders.pop()
        for field, node in _fields(holder, budget) if nodes and isinstance(holder, memoryview) else ():
            graphs = list[memoryview]()
            if field == nodes and isinstance(node, memoryview) and (found := _crashing_in_node(node, budget, graphs)):
                return found
            holders += [(GRAPH_NODE, graph) for graph in graphs]
    return None


def opset(model: bytes) -> int | None:
    """Returns the version of the standard operators that a model imports; raises ValueError as `crashing_attribute`."""
    budget = iter(range(MAX_FIELDS))
    for field, value in _fields(memoryview(model), budget):
        if field == OPSET_IMPORT and isinstance(value, memoryview):
            imported = dict(_fields(value, budget))
            version = imported.get(OPSET_VERSION)
            if not imported.get(OPSET_DOMAIN) and isinstance(version, int):
                return version
    return None


def _crashing_in_node(node: memoryview, budget: Iterator[int], graphs: list[memoryview]) -> str | None:
    """Describes the first such attribute of a node; appends the node's subgraphs to `graphs`."""
    op_type, outputs, numbers = "", 0, dict[str, int]()
    for field, value in _fields(node, budget):
        if field == NODE_OUTPUT:
            outputs += 1
        elif field == NODE_TYPE and isinstance(value, memoryview):
            op_type = _text(value)
        elif field == NODE_ATTRIBUTE and isinstance(value, memoryview):
            numbers.update(_integer(value, budget, graphs))
    crashing = (name for name, number in numbers.items() if _crashes(name, number, outputs))
    return next((f"{name} {numbers[name]} of {op_type[:60]}" for name in crashing if op_type != "Constant"), None)


def _crashes(name: str, number: int, outputs: int) -> bool:
    """Whether a value overflows 32 bits, or is a number of outputs other than the node's."""
    return abs(number) > LARGEST or (name == "num_outputs" and number != outputs)


def _integer(attribute: memoryview, budget: Iterator[int], graphs: list[memoryview]) -> Iterator[tuple[str, int]]:
    """Yields name and value of an integer attribute; appends graphs of an attribute to `graphs`."""
    name, number = "", None
    for field, value in _fields(attribute, budget):
        if field == ATTRIBUTE_NAME and isinstance(value, memoryview):
            name = _text(value)
        elif field == ATTRIBUTE_INT and isinstance(value, int):
            number = value - (1 << 64) if value >> 63 else value
        elif field in ATTRIBUTE_GRAPHS and isinstance(value, memoryview):
            graphs.append(value)
    if number is not None:
        yield name, number


def _text(value: memoryview) -> str:
    return bytes(value[:200]).decode("utf-8", "replace")


def _fields(message: memoryview, budget: Iterator[int]) -> Iterator[tuple[int, int | memoryview]]:
    """Yields number and value of every field: an integer, or bytes.

    Takes one item from `budget` per field. Raises ValueError if none is left, or if the message is truncated.
    """
    offset, end = 0, len(message)
    while offset < end:
        if next(budget, None) is None:
            raise ValueError(f"more than {MAX_FIELDS:,} fields")
        key, offset = _varint(message, offset)
        wire_type = key & 7
        if wire_type == VARINT:
            value, offset = _varint(message, offset)
            yield key >> 3, value
            continue
        if wire_type == DELIMITED:
            size, offset = _varint(message, offset)
        elif wire_type in (FIXED64, FIXED32):
            size = 8 if wire_type == FIXED64 else 4
        else:
            raise ValueError(f"a field of unknown wire type {wire_type}")
        if size > end - offset:
            raise ValueError("a truncated field")
        yield key >> 3, message[offset : offset + size]
        offset += size


def _varint(message: memoryview, offset: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if offset >= len(message):
            break
        byte = message[offset]
        offset += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & ((1 << 64) - 1), offset
    raise ValueError("a truncated number")
