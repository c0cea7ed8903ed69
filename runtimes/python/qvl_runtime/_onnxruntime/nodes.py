"""Finds attributes that crash ONNX Runtime in a model file before it is opened.

Parses the Protocol Buffers wire format, but only graphs, functions, nodes, and attributes that are integers or graphs;
field numbers are those of `onnx.proto`.
"""

from __future__ import annotations

from collections.abc import Iterator

GRAPH_NODE = 1
NODES_OF = {7: GRAPH_NODE, 25: 7}
"""Fields of a model that contain nodes (graph, functions) → the field of the nodes in each."""
NODE_OUTPUT, NODE_TYPE, NODE_ATTRIBUTE = 2, 4, 5
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
    left = iter(range(MAX_FIELDS))
    holders = [(NODES_OF.get(field), value) for field, value in _fields(memoryview(model), left)]
    while holders:
        nodes, holder = holders.pop()
        for field, node in _fields(holder, left) if nodes and isinstance(holder, memoryview) else ():
            graphs = list[memoryview]()
            if field == nodes and isinstance(node, memoryview) and (found := _crashing(node, left, graphs)):
                return found
            holders += [(GRAPH_NODE, graph) for graph in graphs]
    return None


def _crashing(node: memoryview, left: Iterator[int], graphs: list[memoryview]) -> str | None:
    """Describes the first such attribute of a node; appends the node's subgraphs to `graphs`."""
    kind, outputs, numbers = "", 0, dict[str, int]()
    for field, value in _fields(node, left):
        if field == NODE_OUTPUT:
            outputs += 1
        elif field == NODE_TYPE and isinstance(value, memoryview):
            kind = _text(value)
        elif field == NODE_ATTRIBUTE and isinstance(value, memoryview):
            numbers.update(_number(value, left, graphs))
    wrong = (name for name, number in numbers.items() if abs(number) > LARGEST or _other_count(name, number, outputs))
    return next((f"{name} {numbers[name]} of {kind[:60]}" for name in wrong if kind != "Constant"), None)


def _other_count(name: str, number: int, outputs: int) -> bool:
    return name == "num_outputs" and number != outputs


def _number(attribute: memoryview, left: Iterator[int], graphs: list[memoryview]) -> Iterator[tuple[str, int]]:
    """Yields name and value of an integer attribute; appends graphs of an attribute to `graphs`."""
    name, number = "", None
    for field, value in _fields(attribute, left):
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


def _fields(message: memoryview, left: Iterator[int]) -> Iterator[tuple[int, int | memoryview]]:
    """Yields number and value of every field: an integer, or bytes.

    Takes one item from `left` per field. Raises ValueError if none is left, or if the message is truncated.
    """
    place, end = 0, len(message)
    while place < end:
        if next(left, None) is None:
            raise ValueError(f"more than {MAX_FIELDS:,} fields")
        key, place = _varint(message, place)
        kind = key & 7
        if kind == VARINT:
            value, place = _varint(message, place)
            yield key >> 3, value
            continue
        if kind == DELIMITED:
            size, place = _varint(message, place)
        elif kind in (FIXED64, FIXED32):
            size = 8 if kind == FIXED64 else 4
        else:
            raise ValueError(f"a field of unknown wire type {kind}")
        if size > end - place:
            raise ValueError("a field that is cut off")
        yield key >> 3, message[place : place + size]
        place += size


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(message):
            break
        byte = message[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & ((1 << 64) - 1), place
    raise ValueError("a number that is cut off")
