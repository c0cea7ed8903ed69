"""Writes safetensors files tensor by tensor, so that at most one chunk of a file is in memory.

Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .safetensors_reader import DTYPES, Array

SHARD_BYTES = 4 << 30
NAMES = {dtype: name for name, dtype in DTYPES.items()}
Advance = Callable[[int], None]


class TensorValues(Protocol):
    """A tensor whose values are computed or read while it is written."""

    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    def chunks(self) -> Iterator[Array]: ...


def nbytes(source: TensorValues) -> int:
    return math.prod(source.shape) * source.dtype.itemsize


def write(
    directory: Path, tensors: Mapping[str, TensorValues], advance: Advance, shard_bytes: int = SHARD_BYTES
) -> None:
    """Writes `model.safetensors`, or numbered shards and their index if the tensors exceed `shard_bytes`."""
    shards = list(_shards(tensors, shard_bytes))
    files = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    files = files if len(shards) > 1 else ["model.safetensors"]
    for file, shard in zip(files, shards, strict=True):
        _write_file(directory / file, {name: tensors[name] for name in shard}, advance)
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(map(nbytes, tensors.values()))},
            "weight_map": {name: file for file, shard in zip(files, shards, strict=True) for name in shard},
        }
        (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n", "utf-8")


def _shards(tensors: Mapping[str, TensorValues], shard_bytes: int) -> Iterator[list[str]]:
    """Yields names in order, with a new shard if the next tensor does not fit; a larger tensor gets its own shard."""
    ends = itertools.accumulate(map(nbytes, tensors.values()))
    shard: list[str] = []
    begin = 0
    for (name, source), end in zip(tensors.items(), ends, strict=True):
        if shard and end - begin > shard_bytes:
            yield shard
            shard, begin = [], end - nbytes(source)
        shard.append(name)
    yield shard


def _write_file(path: Path, tensors: Mapping[str, TensorValues], advance: Advance) -> None:
    """Writes one file, wide element types first: every tensor must start at a multiple of its element size."""
    order = sorted(tensors, key=lambda name: -tensors[name].dtype.itemsize)
    with path.open("wb") as file:
        file.write(_header((name, tensors[name]) for name in order))
        for name in order:
            written = file.tell()
            for chunk in tensors[name].chunks():
                chunk.tofile(file)
                advance(chunk.nbytes)
            assert file.tell() - written == nbytes(tensors[name]), name


def _header(tensors: Iterable[tuple[str, TensorValues]]) -> bytes:
    """Returns length and JSON, padded so that the tensors start at a multiple of eight."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, source in tensors:
        end = start + nbytes(source)
        entries[name] = {"dtype": NAMES[source.dtype], "shape": source.shape, "data_offsets": [start, end]}
        start = end
    raw = json.dumps(entries, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw
