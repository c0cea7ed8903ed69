"""Tensors of a checkpoint that an export has no use for: they are left out, and the user is told which."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping

from .directory import few
from .safetensors_reader import BUFFERS, StoredTensor, element_type

COMPUTED = ("*rotary_emb.inv_freq", "*rotary_pos_emb.inv_freq")
"""Buffers that old checkpoints saved; they are computed."""
HEADS = ("score.*", "v_head.*", "value_head.*", "reward_head.*", "classifier.*", "custom_text_proj.*", "mtp.*")
"""Modules that answers do not go through: of reward models, trainers and retrievers, and for drafting tokens."""


def heads(tensors: Mapping[str, StoredTensor]) -> list[str]:
    """Names of tensors of such heads."""
    return [name for name in tensors if any(fnmatch.fnmatchcase(name, pattern) for pattern in HEADS)]


def buffers(tensors: Mapping[str, StoredTensor]) -> list[str]:
    """Names of integers and flags that are no weights, such as positions."""
    return [
        name
        for name, tensor in tensors.items()
        if element_type(tensor) in BUFFERS and not name.endswith((".weight", ".bias"))
    ]


def notes(tensors: Mapping[str, StoredTensor]) -> list[str]:
    """What is said of them, a line each."""
    kinds = {"heads that answers do not go through": heads(tensors), "integer buffers": buffers(tensors)}
    return [f"left out, as {kind}: {few(names)}" for kind, names in kinds.items() if names]
