"""Tensors of a checkpoint that an export does not need: they are left out, and notes name them."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping

from .directory import abbreviate
from .safetensors_reader import BUFFERS, StoredTensor, element_type

COMPUTED = ("*rotary_emb.inv_freq", "*rotary_pos_emb.inv_freq")
"""Buffers saved by old checkpoints; an export computes them."""
HEADS = ("score.*", "v_head.*", "value_head.*", "reward_head.*", "classifier.*", "custom_text_proj.*", "mtp.*")
"""Modules that generation does not use: of reward models, trainers and retrievers, and for drafting tokens."""


def heads(tensors: Iterable[str]) -> list[str]:
    """Returns those of the names that belong to HEADS."""
    return [name for name in tensors if any(fnmatch.fnmatchcase(name, pattern) for pattern in HEADS)]


def buffers(tensors: Mapping[str, StoredTensor]) -> list[str]:
    """Returns the names of integer and boolean tensors that are not weights, such as positions."""
    return [
        name
        for name, tensor in tensors.items()
        if element_type(tensor) in BUFFERS and not name.endswith((".weight", ".bias"))
    ]


def notes(tensors: Mapping[str, StoredTensor]) -> list[str]:
    """Returns one note per kind of unused tensors."""
    kinds = {"heads that answers do not go through": heads(tensors), "integer buffers": buffers(tensors)}
    return [f"left out, as {kind}: {abbreviate(names)}" for kind, names in kinds.items() if names]
