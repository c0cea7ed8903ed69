"""Qwen3-VL-MoE: Qwen3-VL whose language model has experts instead of most MLPs."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import msgspec

from ..checkpoint.directory import Checkpoint
from . import qwen3_vl
from .config import Positive, convert, refuse_unless
from .config.text import read_text
from .spec import ModelSpec, MoeSpec

GENAI_TYPE = qwen3_vl.GENAI_TYPE
TEXT_DEFAULTS = {name: value for name, value in qwen3_vl.TEXT_DEFAULTS.items() if name != "head_dim"}
"""Defaults of transformers' `Qwen3VLMoeTextConfig`, whose default head size is the hidden size per head."""


class MoeConfig(msgspec.Struct):
    """The part of `text_config` about experts, with the defaults of transformers' `Qwen3VLMoeTextConfig`."""

    num_hidden_layers: Positive
    num_experts: Positive | None = None
    num_local_experts: Positive | None = None
    num_experts_per_tok: Positive = 4
    moe_intermediate_size: Positive = 1408
    decoder_sparse_step: Positive = 1
    mlp_only_layers: list[Annotated[int, msgspec.Meta(ge=0)]] = msgspec.field(default_factory=list)

    @property
    def experts(self) -> int:
        """The number of experts, which configurations store under either name."""
        return self.num_experts or self.num_local_experts or 60

    @property
    def dense_layers(self) -> frozenset[int]:
        skipped = {index for index in range(self.num_hidden_layers) if (index + 1) % self.decoder_sparse_step}
        return frozenset(skipped.union(self.mlp_only_layers))


def read(checkpoint: Checkpoint) -> ModelSpec:
    """Reads the specification of a Qwen3-VL-MoE checkpoint; raises ConfigError for unsupported values."""
    text, max_positions = read_text(checkpoint, TEXT_DEFAULTS, free_head_dim=True, interleaved=True)
    raw, where = checkpoint.config, checkpoint.directory / "config.json"
    config = convert(raw.get("text_config") or raw, MoeConfig, where, "text_config" if "text_config" in raw else "")
    refuse_unless(
        config.num_experts_per_tok <= config.experts,
        f"num_experts_per_tok {config.num_experts_per_tok} is more than {config.experts} experts",
        checkpoint,
    )
    moe = MoeSpec(config.experts, config.num_experts_per_tok, config.moe_intermediate_size, config.dense_layers)
    return qwen3_vl.assemble("qwen3_vl_moe", replace(text, moe=moe), max_positions, checkpoint)
