"""Reads safetensors files tensor by tensor, by offset, in row chunks.

Files are never memory-mapped: touched pages would count as resident, and a truncated file would cause a bus error.
Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Protocol

import ml_dtypes
import msgspec
import numpy as np

from qvl_runtime.common.counted import counted

from ..errors import CheckpointError
from . import json_text

MAX_HEADER_BYTES = 100 << 20
"""The limit of the safetensors library."""
LFS_POINTER = b"version "
"""Start of the pointer file that Git LFS leaves in place of a file; as a header length it is far too large."""
CHUNK_BYTES = 64 << 20
FLOATS = ("BF16", "F16", "F32")
"""Element types that weights may have."""
BUFFERS = ("BOOL", "I64")
"""Element types of buffers that models keep beside their weights."""
QUANTIZED = ("F8_E4M3", "F8_E5M2", "F8_E8M0", "I8", "U8", "U32")
"""Element types of FP8, compressed-tensors, bitsandbytes and MLX checkpoints."""
DTYPES: dict[str, np.dtype[Any]] = {
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "BOOL": np.dtype(np.bool_),
    "I8": np.dtype(np.int8),
    "I16": np.dtype(np.int16),
    "I32": np.dtype(np.int32),  # packed codes of GPTQ and AWQ checkpoints
    "I64": np.dtype(np.int64),
    "U8": np.dtype(np.uint8),
    "U16": np.dtype(np.uint16),
    "U32": np.dtype(np.uint32),
    "U64": np.dtype(np.uint64),
}
"""Every element type of whole bytes; whether a tensor's type is supported is checked where the tensor is used."""

Array = np.ndarray[Any, np.dtype[Any]]


class Tensor(Protocol):
    """A tensor that can be read piece by piece: stored in a file, or computed from a stored one."""

    @property
    def name(self) -> str: ...
    @property
    def file(self) -> Path: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def nbytes(self) -> int: ...
    def chunks(self, chunk_bytes: int = CHUNK_BYTES) -> Iterator[Array]: ...
    def rows(self, indices: Iterable[int]) -> Array: ...


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: element type, shape, and the offset of its bytes."""

    name: str
    file: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def part(self, first: int, rows: int) -> StoredTensor:
        """Returns a range of rows as a tensor."""
        row = self.nbytes // self.shape[0]
        return replace(self, shape=(rows, *self.shape[1:]), start=self.start + first * row)

    def chunks(self, chunk_bytes: int = CHUNK_BYTES) -> Iterator[Array]:
        """Yields the elements in order, flat, as many whole rows at a time as fit into `chunk_bytes` (at least one)."""
        row = self.size // self.shape[0] if self.shape and self.shape[0] else max(1, self.size)
        step = max(1, chunk_bytes // (row * self.dtype.itemsize)) * row
        with self.file.open("rb") as file:
            file.seek(self.start)
            for first in range(0, self.size, step):
                count = min(step, self.size - first)
                yield self._read(file, count)

    def rows(self, indices: Iterable[int]) -> Array:
        """Returns some rows of a matrix; each is read separately."""
        width = self.shape[1]
        with self.file.open("rb") as file:
            found = []
            for index in indices:
                file.seek(self.start + index * width * self.dtype.itemsize)
                found.append(self._read(file, width))
        return np.stack(found)

    def _read(self, file: BinaryIO, count: int) -> Array:
        piece = np.fromfile(file, self.dtype, count)
        if len(piece) < count:
            raise CheckpointError(f"ends within tensor {self.name}", where=self.file, fix="download it again")
        return piece


class _HeaderEntry(msgspec.Struct):
    dtype: str
    shape: list[Annotated[int, msgspec.Meta(ge=0)]]
    data_offsets: tuple[Annotated[int, msgspec.Meta(ge=0)], int]


def read_header(path: Path) -> Iterator[StoredTensor]:
    """Yields the tensors of a safetensors file after checking every offset against the file.

    Raises CheckpointError if the file is not a complete safetensors file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if prefix == LFS_POINTER:
            raise CheckpointError("is a Git LFS pointer, not the file", where=path, fix="git lfs pull, or download it")
        if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
            raise CheckpointError("is not a safetensors file, or is truncated", where=path, fix="download it again")
        raw = file.read(length)
    try:
        header = msgspec.convert(json_text.parse(raw, _distinct), dict[str, Any])
        header.pop("__metadata__", None)
        entries = msgspec.convert(header, dict[str, _HeaderEntry])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise CheckpointError(f"has a damaged header: {error}", where=path) from error
    tensors = [_stored(name, entry, path, 8 + length, size) for name, entry in entries.items()]
    _check_layout(tensors, path, 8 + length, size)
    yield from tensors


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Builds a JSON object; raises ValueError for a duplicate name, which would hide one of two tensors."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r} occurs twice")
        found[name] = value
    return found


def _check_layout(tensors: list[StoredTensor], path: Path, base: int, file_size: int) -> None:
    """Raises CheckpointError unless tensors are contiguous from the header to the end of the file (format rule)."""
    end = base
    for tensor in sorted(tensors, key=lambda tensor: (tensor.start, tensor.nbytes)):
        if tensor.start != end:
            relation = "overlaps the one before it" if tensor.start < end else "leaves a gap before it"
            raise CheckpointError(f"tensor {tensor.name} {relation}", where=path, fix="download it again")
        end += tensor.nbytes
    if end != file_size:
        raise CheckpointError(
            f"has {counted(file_size - end, 'byte')} after the last tensor", where=path, fix="download it again"
        )


def _stored(name: str, entry: _HeaderEntry, path: Path, base: int, file_size: int) -> StoredTensor:
    begin, end = entry.data_offsets
    if entry.dtype not in DTYPES:
        raise CheckpointError(
            f"tensor {name} has element type {entry.dtype}", where=path, fix=f"supported: {', '.join(FLOATS)}"
        )
    tensor = StoredTensor(name, path, DTYPES[entry.dtype], tuple(entry.shape), base + begin)
    if end - begin != tensor.nbytes:
        raise CheckpointError(f"tensor {name}: offsets and shape {list(entry.shape)} disagree", where=path)
    if base + end > file_size:
        raise CheckpointError(
            f"is truncated: tensor {name} ends at byte {base + end} of {file_size}", where=path, fix="download it again"
        )
    return tensor


def element_type(tensor: Tensor) -> str:
    """Returns the format's name of a tensor's element type."""
    return next(name for name, dtype in DTYPES.items() if dtype == tensor.dtype)


def same_elements(first: StoredTensor, second: StoredTensor) -> bool:
    """Whether two tensors are equal bit for bit, compared chunk by chunk."""
    if (first.dtype, first.shape) != (second.dtype, second.shape):
        return False
    pairs = zip(first.chunks(), second.chunks(), strict=True)
    return all(np.array_equal(one.view(np.uint8), other.view(np.uint8)) for one, other in pairs)
