"""Qwen3.5-MoE: Qwen3.5 with experts, and a shared one with a gate of its own, in every layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec

from ..checkpoint.directory import Checkpoint
from ..checkpoint.expert_stacks import with_stacks
from ..checkpoint.safetensors_reader import Tensor
from . import qwen3_5
from .config import Positive, convert, refuse_unless
from .spec import ModelSpec, MoeSpec

TEXT_DEFAULTS: Mapping[str, Any] = {**qwen3_5.TEXT_DEFAULTS, "intermediate_size": 512}
"""Defaults of transformers' `Qwen3_5MoeTextConfig`, which has no MLPs, and so no size of them."""


class MoeConfig(msgspec.Struct):
    """The part of `text_config` about experts, with the defaults of transformers' `Qwen3_5MoeTextConfig`."""

    num_experts: Positive = 256
    num_experts_per_tok: Positive = 8
    moe_intermediate_size: Positive = 512
    shared_expert_intermediate_size: Positive = 512


def read(checkpoint: Checkpoint) -> ModelSpec:
    """Reads the specification of a Qwen3.5-MoE checkpoint; raises ConfigError for unsupported values."""
    text, max_positions = qwen3_5.read_hybrid_text(checkpoint, TEXT_DEFAULTS)
    raw, where = checkpoint.config, checkpoint.directory / "config.json"
    config = convert(raw.get("text_config") or raw, MoeConfig, where, "text_config" if "text_config" in raw else "")
    refuse_unless(
        config.num_experts_per_tok <= config.num_experts,
        f"num_experts_per_tok {config.num_experts_per_tok} is more than {config.num_experts} experts",
        checkpoint,
    )
    moe = MoeSpec(
        config.num_experts,
        config.num_experts_per_tok,
        config.moe_intermediate_size,
        frozenset(),
        shared_size=config.shared_expert_intermediate_size,
    )
    return qwen3_5.assemble("qwen3_5_moe", replace(text, moe=moe), max_positions, checkpoint)


def tensors(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The tensors as those of the dense family; experts are stored in two tensors per layer or one by one."""
    return qwen3_5.centered(with_stacks(checkpoint.tensors))
