"""A checkpoint directory: its JSON files, and its safetensors read tensor by tensor, by offset, in row chunks.

Files are never mapped into memory: touched pages would count as resident, and a truncated file would be a bus error.
Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import ml_dtypes
import msgspec
import numpy as np

from .errors import CheckpointError, ConfigError

MAX_HEADER_BYTES = 100 << 20
"""safetensors' own limit."""
MAX_JSON_BYTES = 64 << 20
CHUNK_BYTES = 64 << 20
DTYPES: dict[str, np.dtype[Any]] = {
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "I32": np.dtype(np.int32),  # packed codes of GPTQ checkpoints
}

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: element type, shape, and where its bytes start."""

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

    def chunks(self, chunk_bytes: int = CHUNK_BYTES) -> Iterator[Array]:
        """The elements in order, flat, as many whole rows at a time as fit into `chunk_bytes` (at least one)."""
        row = self.size // self.shape[0] if self.shape and self.shape[0] else max(1, self.size)
        step = max(1, chunk_bytes // (row * self.dtype.itemsize)) * row
        with self.file.open("rb") as file:
            file.seek(self.start)
            for first in range(0, self.size, step):
                count = min(step, self.size - first)
                piece = np.fromfile(file, self.dtype, count)
                if len(piece) < count:
                    raise CheckpointError(f"ends within tensor {self.name}", where=self.file, fix="download it again")
                yield piece

    def rows(self, indices: Iterable[int]) -> Array:
        """Some rows of a matrix, each read on its own."""
        width = self.shape[1]
        with self.file.open("rb") as file:
            found = []
            for index in indices:
                file.seek(self.start + index * width * self.dtype.itemsize)
                found.append(np.fromfile(file, self.dtype, width))
        return np.stack(found)


class Checkpoint:
    """The files of one checkpoint; tensors are found under their published (transformers 4) names."""

    def __init__(self, directory: Path) -> None:
        if not directory.is_dir():
            raise CheckpointError("no such checkpoint directory", where=directory)
        self.directory = directory

    def json(self, name: str) -> dict[str, Any] | None:
        """A JSON object of the checkpoint, None where the file does not exist."""
        path = self.directory / name
        if not path.is_file():
            return None
        return read_json(path)

    def text(self, name: str) -> str | None:
        """A text file of the checkpoint, None where it does not exist."""
        path = self.directory / name
        try:
            return path.read_text("utf-8") if path.is_file() else None
        except UnicodeDecodeError as error:
            raise ConfigError("is not UTF-8 text", where=path) from error

    @cached_property
    def config(self) -> dict[str, Any]:
        """`config.json`; raises ConfigError when it is missing."""
        config = self.json("config.json")
        if config is None:
            is_adapter = (self.directory / "adapter_config.json").is_file()
            raise ConfigError(
                "is missing: " + ("this is a LoRA adapter" if is_adapter else "not a checkpoint directory"),
                where=self.directory / "config.json",
                fix="merge it into its base model with peft's merge_and_unload first" if is_adapter else "",
            )
        return config

    @cached_property
    def tensors(self) -> dict[str, StoredTensor]:
        """Every tensor by its published name; raises CheckpointError for damaged, missing or duplicate ones."""
        found: dict[str, StoredTensor] = {}
        for path in self._shards():
            for tensor in read_header(path):
                name = published_name(tensor.name)
                if name in found:
                    raise CheckpointError(
                        f"tensor {tensor.name} is also in {found[name].file.name}", where=path, fix="remove one copy"
                    )
                found[name] = tensor
        self._check_index(found)
        return found

    @property
    def files(self) -> list[Path]:
        """The safetensors files."""
        return self._shards()

    def _index(self) -> dict[str, Any] | None:
        index = self.json("model.safetensors.index.json")
        if index is None:
            return None
        weight_map = index.get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
            raise CheckpointError("has no weight_map", where=self.directory / "model.safetensors.index.json")
        return weight_map

    def _shards(self) -> list[Path]:
        weight_map = self._index()
        names = ["model.safetensors"] if weight_map is None else sorted(set(weight_map.values()))
        for name in names:
            if Path(name).name != name:
                raise CheckpointError(f"shard name {name!r} leaves the checkpoint directory", where=self.directory)
            if not (self.directory / name).is_file():
                raise CheckpointError(
                    f"{name} is missing",
                    where=self.directory,
                    fix="checkpoints must be safetensors; download all shards",
                )
        return [self.directory / name for name in names]

    def _check_index(self, found: dict[str, StoredTensor]) -> None:
        missing = [name for name in self._index() or {} if published_name(name) not in found]
        if missing:
            raise CheckpointError(
                f"{len(missing)} tensors of the index are in no shard: {few(missing)}", where=self.directory
            )


def published_name(name: str) -> str:
    """The name as the hub publishes it: transformers 5 nests `model.visual` and `model.language_model`."""
    if name.startswith("model.visual."):
        return name.removeprefix("model.")
    return name.replace("model.language_model.", "model.", 1) if name.startswith("model.language_model.") else name


class _HeaderEntry(msgspec.Struct):
    dtype: str
    shape: list[Annotated[int, msgspec.Meta(ge=0)]]
    data_offsets: tuple[Annotated[int, msgspec.Meta(ge=0)], int]


def read_header(path: Path) -> Iterator[StoredTensor]:
    """The tensors of a safetensors file, every offset checked against the file.

    Raises CheckpointError for anything that is not a whole safetensors file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
            raise CheckpointError("is not a safetensors file, or is truncated", where=path, fix="download it again")
        raw = file.read(length)
    try:
        header = msgspec.json.decode(raw, type=dict[str, Any])
        header.pop("__metadata__", None)
        entries = msgspec.convert(header, dict[str, _HeaderEntry])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(f"has a damaged header: {error}", where=path) from error
    tensors = [_stored(name, entry, path, 8 + length, size) for name, entry in entries.items()]
    _check_layout(tensors, path, 8 + length, size)
    yield from tensors


def _check_layout(tensors: list[StoredTensor], path: Path, base: int, file_size: int) -> None:
    """Tensors lie back to back from the header to the end of the file, as the format demands."""
    end = base
    for tensor in sorted(tensors, key=lambda tensor: (tensor.start, tensor.nbytes)):
        if tensor.start != end:
            relation = "overlaps the one before it" if tensor.start < end else "leaves a gap before it"
            raise CheckpointError(f"tensor {tensor.name} {relation}", where=path, fix="download it again")
        end += tensor.nbytes
    if end != file_size:
        raise CheckpointError(f"has {file_size - end} bytes after the last tensor", where=path, fix="download it again")


def _stored(name: str, entry: _HeaderEntry, path: Path, base: int, file_size: int) -> StoredTensor:
    begin, end = entry.data_offsets
    if entry.dtype not in DTYPES:
        raise CheckpointError(
            f"tensor {name} has element type {entry.dtype}", where=path, fix=f"supported: {', '.join(DTYPES)}"
        )
    tensor = StoredTensor(name, path, DTYPES[entry.dtype], tuple(entry.shape), base + begin)
    if end - begin != tensor.nbytes:
        raise CheckpointError(f"tensor {name}: offsets and shape {list(entry.shape)} disagree", where=path)
    if base + end > file_size:
        raise CheckpointError(
            f"is truncated: tensor {name} ends at byte {base + end} of {file_size}", where=path, fix="download it again"
        )
    return tensor


def same_elements(first: StoredTensor, second: StoredTensor) -> bool:
    """Whether two tensors are equal bit by bit, compared chunk by chunk."""
    if (first.dtype, first.shape) != (second.dtype, second.shape):
        return False
    pairs = zip(first.chunks(), second.chunks(), strict=True)
    return all(np.array_equal(one.view(np.uint8), other.view(np.uint8)) for one, other in pairs)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; raises ConfigError when it is too large, malformed or not an object."""
    if path.stat().st_size > MAX_JSON_BYTES:
        raise ConfigError(f"is larger than {MAX_JSON_BYTES} bytes", where=path)
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"is not JSON: {error}", where=path) from error
    if not isinstance(value, dict):
        raise ConfigError("is not a JSON object", where=path)
    return value


def few(names: list[str], shown: int = 4) -> str:
    """The first names of a list, and how many more there are."""
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(sorted(names)[:shown]) + rest
