"""Writes weights from the checkpoint to a graph's external data file, tensor by tensor, large ones in row chunks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir

from ..checkpoint.safetensors_reader import CHUNK_BYTES, Array, Tensor
from ..common.progress import Progress
from ..errors import CheckpointError
from ..qtensor import QuantFormat
from .build import Graph
from .experts import ExpertWeight, StoredExperts, is_transposed
from .layers import Weight
from .quantized import Packed
from .weight_files import WeightFiles

BITS: dict[str, tuple[type[np.unsignedinteger[Any]], int]] = {
    "bfloat16": (np.uint16, 0x7F80),
    "float16": (np.uint16, 0x7C00),
    "float32": (np.uint32, 0x7F800000),
}
"""Unsigned type of each float type, and the bits of infinity: bits order by magnitude, NaN is above infinity."""
LARGEST_IN_FLOAT16 = {"bfloat16": 0x477F, "float16": 0x7BFF, "float32": 0x477FE000}
"""The bits of the largest value that float16 can hold: 65,280 in bfloat16, 65,504 in the others."""
Advance = Callable[[int], None]


class WeightSource(Protocol):
    """The source of a parameter's values: a stored tensor, or a part of a quantized weight."""

    @property
    def name(self) -> str: ...
    @property
    def file(self) -> Path: ...
    @property
    def nbytes(self) -> int: ...
    def chunks(self, chunk_bytes: int = CHUNK_BYTES) -> Iterator[Array]: ...


@dataclass(frozen=True)
class Written:
    """Bytes of weights per element type, the hashes of the files, and the formats of quantized linears."""

    weight_bytes: dict[str, int]
    hashes: Mapping[str, str]
    formats: Mapping[str, QuantFormat]

    def precision(self, floats: str) -> str:
        """The precision as manifests and messages name it, such as `fp16`, or `int4 in blocks of 32, else fp16`."""
        formats = sorted(set(map(str, self.formats.values())))
        return f"{', '.join(formats)}, else {floats}" if formats else floats


def float_sources(graph: Graph, tensors: Mapping[str, Tensor]) -> dict[str, WeightSource]:
    """The sources of a graph's float weights."""
    return stored_sources({name: value for name, value in parameters(graph) if isinstance(value, Weight)}, tensors)


def stored_sources(weights: Mapping[str, Weight], tensors: Mapping[str, Tensor]) -> dict[str, WeightSource]:
    """The sources of weights, with experts in the order of the graph."""

    def source(name: str, weight: Weight) -> WeightSource:
        if isinstance(weight, ExpertWeight):
            return StoredExperts(tensors[name], is_transposed(name, weights, tensors), weight.rows)
        return tensors[name]

    return {name: source(name, weight) for name, weight in weights.items()}


def parameters(graph: Graph) -> list[tuple[str, Weight | Packed]]:
    """The parameters of a graph that need values, with their names."""
    initializers = graph.model.graph.initializers
    return [(name, value) for name, value in initializers.items() if isinstance(value, Weight | Packed)]


def source_bytes(graph: Graph, sources: Mapping[str, WeightSource]) -> int:
    """Bytes that `write` reads to fill the graph."""
    return sum(sources[name].nbytes for name, _ in parameters(graph))


def stored(graph: Graph) -> dict[str, ir.ExternalTensor]:
    """The external tensors of a written graph's weights, by name."""
    values = {name: value.const_value for name, value in parameters(graph)}
    return {name: tensor for name, tensor in values.items() if isinstance(tensor, ir.ExternalTensor)}


def share(graph: Graph, stored: Mapping[str, ir.ExternalTensor]) -> None:
    """Points the graph's initializers at weights of the same names that other graphs of its directory have stored."""
    for name, value in parameters(graph):
        value.const_value = stored[name]


def write(
    graph: Graph,
    sources: Mapping[str, WeightSource],
    data: Path,
    read_hash: Any,
    advance: Advance,
    before: Mapping[str, ir.ExternalTensor] | None = None,
    largest_file: int | None = None,
) -> Written:
    """Writes the graph's weights to the file `data`, or files of up to `largest_file` bytes (see `WeightFiles`), and
    points its initializers there.

    `read_hash` (a hashlib object) is updated with every byte read, `advance` is called with the source bytes done. A
    weight that another graph of the directory has stored under the same name with the same bytes (`before`) is shared.
    """
    sizes: dict[str, int] = {}
    with WeightFiles(data, largest_file) as files:
        for name, weight in parameters(graph):
            assert weight.dtype is not None and weight.shape is not None
            if before and name in before and _same(before[name], weight.dtype, sources[name]):
                weight.const_value = before[name]
                advance(sources[name].nbytes)
                continue
            length = stored_bytes(weight.shape.numpy(), weight.dtype)
            place = files.place(length)
            for chunk in sources[name].chunks():
                read_hash.update(chunk.view(np.uint8))
                files.write(_convert(chunk, weight.dtype, sources[name]).view(np.uint8).data)
                advance(chunk.nbytes)
            kind = weight.dtype.name.lower()
            sizes[kind] = sizes.get(kind, 0) + length
            weight.const_value = ir.ExternalTensor(
                place.file, place.offset, length, weight.dtype, shape=weight.shape, name=name, base_dir=data.parent
            )
    return Written(sizes, files.hashes, graph.formats)


def stored_bytes(shape: Sequence[int], dtype: ir.DataType) -> int:
    """Returns the bytes of a weight in a file."""
    return -(-math.prod(shape) * dtype.bitwidth // 8)


def _same(tensor: ir.ExternalTensor, dtype: ir.DataType, source: WeightSource) -> bool:
    """Whether the stored tensor has the type and bytes that `source` would have."""
    if tensor.dtype != dtype:
        return False
    assert tensor.offset is not None and tensor.length is not None
    left = tensor.length
    with open(tensor.path, "rb") as file:
        file.seek(tensor.offset)
        for chunk in source.chunks():
            mine = _convert(chunk, dtype, source).tobytes()
            if file.read(len(mine)) != mine:
                return False
            left -= len(mine)
    return left == 0


def check_finite(tensors: Iterable[WeightSource], progress: Progress) -> None:
    """Reads all weights once, before long work starts; raises CheckpointError with one that is not finite."""
    tensors = list(tensors)
    progress.stage("checking the weights", sum(tensor.nbytes for tensor in tensors))
    for tensor in tensors:
        for chunk in tensor.chunks():
            if chunk.dtype.name in BITS:
                _largest(chunk, tensor)
            progress.advance(chunk.nbytes)


def _largest(chunk: Array, source: WeightSource) -> int:
    """The bits of the largest magnitude; raises CheckpointError if a value is infinite or NaN."""
    unsigned, infinite = BITS[chunk.dtype.name]
    largest = int((chunk.view(unsigned) & (np.iinfo(unsigned).max >> 1)).max(initial=0))
    if largest >= infinite:
        raise CheckpointError(
            f"tensor {source.name} has values that are not finite", where=source.file, fix="the training diverged"
        )
    return largest


def _convert(chunk: Array, dtype: ir.DataType, source: WeightSource) -> Array:
    """Converts elements to `dtype`; raises CheckpointError if they are not finite or overflow float16.

    Elements smaller than a byte are packed already.
    """
    if dtype.bitwidth < 8:
        return chunk
    if chunk.dtype.name in BITS:
        largest = _largest(chunk, source)
        if dtype == ir.DataType.FLOAT16 and largest > LARGEST_IN_FLOAT16[chunk.dtype.name]:
            raise CheckpointError(
                f"tensor {source.name} has values beyond float16's 65,504",
                where=source.file,
                fix="export with --precision fp32",
            )
    return np.ascontiguousarray(chunk.astype(dtype.numpy(), copy=False))
