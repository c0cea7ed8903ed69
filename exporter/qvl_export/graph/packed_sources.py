"""Packed parts of quantized linears as sources of a graph's weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..checkpoint.quantized.detect import QuantizedSource
from ..checkpoint.safetensors_reader import Array
from ..targets import Target


@dataclass(frozen=True)
class PackedPart:
    """One part of a quantized weight, packed when it is written; `name` is the name of its parameter."""

    name: str
    file: Path
    nbytes: int
    make: Callable[[], Array]

    def chunks(self, chunk_bytes: int = 0) -> Iterator[Array]:
        yield np.ascontiguousarray(self.make()).reshape(-1)


def packed_parts(linears: Mapping[str, QuantizedSource], target: Target) -> dict[str, PackedPart]:
    """The sources of all parts; a linear's parts are packed together and cached until the next linear is read."""

    @lru_cache(maxsize=1)
    def packed(name: str) -> dict[str, Array]:
        return target.pack(linears[name].read())

    def part(name: str, linear: QuantizedSource, kind: str, nbytes: int) -> PackedPart:
        return PackedPart(f"{name}.{kind}", linear.file, nbytes, lambda: packed(name)[kind])

    sources = {}
    for name, linear in linears.items():
        for kind, (shape, dtype) in target.packed_form(linear.rows, linear.columns, linear.format()).items():
            sources[f"{name}.{kind}"] = part(name, linear, kind, int(np.prod(shape) * dtype.itemsize))
    return sources
