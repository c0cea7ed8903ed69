"""Experts stored as one tensor per matrix, read as transformers keeps them: all matrices of a layer in two tensors."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .safetensors_reader import CHUNK_BYTES, Array, StoredTensor, Tensor

MATRIX = re.compile(r"(?P<layer>.*\.experts)\.(?P<expert>\d+)\.(?P<part>gate_proj|up_proj|down_proj)\.weight")
PARTS = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}
"""The matrices of an expert that each tensor has below one another."""


@dataclass(frozen=True)
class ExpertStack:
    """Matrices [out, in] of one form: those of an expert below one another, then those of the next."""

    name: str
    matrices: tuple[StoredTensor, ...]
    shape: tuple[int, ...]

    @property
    def file(self) -> Path:
        return self.matrices[0].file

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.matrices[0].dtype

    @property
    def nbytes(self) -> int:
        return sum(matrix.nbytes for matrix in self.matrices)

    def chunks(self, chunk_bytes: int = CHUNK_BYTES) -> Iterator[Array]:
        """Yields one flat expert at a time."""
        each = len(self.matrices) // self.shape[0]
        for first in range(0, len(self.matrices), each):
            matrices = self.matrices[first : first + each]
            yield np.concatenate([chunk for matrix in matrices for chunk in matrix.chunks(chunk_bytes)])

    def rows(self, indices: Iterable[int]) -> Array:
        """Raises ValueError: experts are read whole."""
        raise ValueError(f"{self.name} is not a matrix")


def with_stacks(tensors: Mapping[str, StoredTensor]) -> dict[str, Tensor]:
    """Returns the tensors with stacks in place of single matrices; a layer that lacks some keeps what it has."""
    layers: dict[str, dict[tuple[int, str], StoredTensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        if match := MATRIX.fullmatch(name):
            layers[match["layer"]][int(match["expert"]), match["part"]] = tensor
    found: dict[str, Tensor] = dict(tensors)
    for layer, matrices in layers.items():
        stacks = [_stack(f"{layer}.{name}", parts, matrices) for name, parts in PARTS.items()]
        if all(stacks):
            found = {name: tensor for name, tensor in found.items() if not name.startswith(f"{layer}.")}
            found |= {stack.name: stack for stack in stacks if stack}
    return found


def _stack(name: str, parts: tuple[str, ...], matrices: Mapping[tuple[int, str], StoredTensor]) -> ExpertStack | None:
    """Returns the stack of some parts of all experts; None if one is missing or differs in shape or type."""
    count = 1 + max(expert for expert, _ in matrices)
    keys = [(expert, part) for expert in range(count) for part in parts]
    if not matrices.keys() >= set(keys):
        return None
    chosen = tuple(matrices[key] for key in keys)
    first = chosen[0]
    if len(first.shape) != 2 or any((one.shape, one.dtype) != (first.shape, first.dtype) for one in chosen):
        return None
    return ExpertStack(name, chosen, (count, len(parts) * first.shape[0], first.shape[1]))
