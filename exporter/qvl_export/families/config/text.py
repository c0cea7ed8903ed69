"""Reads the language model from `config.json`: its sizes, RoPE frequencies and YaRN."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from ...checkpoint.directory import HEAD, TABLE, Checkpoint
from ...checkpoint.safetensors_reader import same_elements
from ..spec import TextSpec, Yarn
from . import LARGEST, Depth, Epsilon, Positive, PositiveFloat, convert, refuse_unless

QWEN2_DEFAULTS: Mapping[str, Any] = {"max_position_embeddings": 32768, "rms_norm_eps": 1e-5, "rope_theta": 1e6}
"""Defaults of transformers' `Qwen2VLTextConfig` and `Qwen2_5_VLTextConfig`."""


class TextConfig(msgspec.Struct):
    """The part of `config.json` that describes the language model."""

    hidden_size: Positive
    intermediate_size: Positive
    num_hidden_layers: Depth
    num_attention_heads: Positive
    num_key_value_heads: Positive | None
    vocab_size: Positive
    max_position_embeddings: Positive
    rms_norm_eps: Epsilon
    hidden_act: str = "silu"
    rope_theta: PositiveFloat | None = None
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None
    mrope_section: list[int] | None = None
    partial_rotary_factor: float | None = None
    head_dim: Positive | None = None
    use_sliding_window: bool | None = False
    sliding_window: int | None = 4096
    max_window_layers: int | None = 80
    layer_types: list[str] | None = None

    @property
    def kv_heads(self) -> int:
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def windowed(self) -> bool:
        """Whether any layer has sliding window attention, by the rules of transformers' `Qwen2VLTextConfig`."""
        if self.layer_types is not None:
            return "sliding_attention" in self.layer_types
        first = self.num_hidden_layers if self.max_window_layers is None else self.max_window_layers
        return bool(self.use_sliding_window) and self.sliding_window is not None and first < self.num_hidden_layers


def read_text(
    checkpoint: Checkpoint,
    defaults: Mapping[str, Any] | None = None,
    free_head_dim: bool = False,
    interleaved: bool = False,
    partial: float = 1.0,
) -> tuple[TextSpec, int]:
    """Reads the language model and its position limit, flat (transformers 4) or under `text_config` (transformers 5).

    `defaults` are the family's values for missing keys. With `free_head_dim`, the head size may differ from hidden_size
    per head. `partial` is the rotated part of a head if the configuration does not say it.
    """
    text = _text_config(checkpoint, defaults or {}, windows=not interleaved)
    head_dim = _head_dim(text, free_head_dim, checkpoint)
    rotated = head_dim if partial == 1 else _rotated(text, head_dim, partial, checkpoint)
    theta, section = _rope(text, rotated, checkpoint, interleaved)
    yarn = _yarn(text, theta, checkpoint)
    spec = TextSpec(
        hidden_size=text.hidden_size,
        intermediate_size=text.intermediate_size,
        num_layers=text.num_hidden_layers,
        num_heads=text.num_attention_heads,
        num_key_value_heads=text.kv_heads,
        head_dim=head_dim,
        vocab_size=text.vocab_size,
        rms_norm_eps=text.rms_norm_eps,
        rope_theta=theta,
        mrope_section=section,
        mrope_interleaved=interleaved,
        tied=_tied(checkpoint),
        yarn=yarn,
        rotary_dim=rotated if rotated != head_dim else 0,
    )
    longest = int(yarn.original_length * yarn.factor) if yarn else 0
    return spec, max(text.max_position_embeddings, longest)


def _text_config(checkpoint: Checkpoint, defaults: Mapping[str, Any], windows: bool) -> TextConfig:
    """Reads the part of `config.json`; without `windows`, the family has no sliding window and its keys are ignored."""
    root = checkpoint.config
    stated = root.get("text_config") or root
    raw = {**defaults, **stated} if isinstance(stated, dict) else stated
    part = "text_config" if "text_config" in root else ""
    text = convert(raw, TextConfig, checkpoint.directory / "config.json", part)
    refuse_unless(text.hidden_act == "silu", f"hidden_act {text.hidden_act!r} is not supported", checkpoint)
    windowed = windows and text.windowed
    refuse_unless(not windowed, "sliding window attention (use_sliding_window) is not supported", checkpoint)
    return text


def _head_dim(text: TextConfig, free: bool, checkpoint: Checkpoint) -> int:
    """The head size: `head_dim`, or hidden_size per head."""
    heads = text.num_attention_heads
    head_dim = (text.head_dim if free else None) or text.hidden_size // heads
    refuse_unless(
        (free or text.hidden_size % heads == 0) and heads % text.kv_heads == 0,
        f"{heads} attention heads do not divide hidden_size {text.hidden_size}, "
        f"or {text.kv_heads} key/value heads do not divide them",
        checkpoint,
    )
    refuse_unless(text.head_dim in (None, head_dim), f"head_dim {text.head_dim}", checkpoint)
    return head_dim


def _rotated(text: TextConfig, head_dim: int, default: float, checkpoint: Checkpoint) -> int:
    """The number of rotated channels per head, by `partial_rotary_factor`."""
    factor = (text.rope_parameters or text.rope_scaling or {}).get("partial_rotary_factor", text.partial_rotary_factor)
    factor = default if factor is None else factor
    valid = isinstance(factor, int | float) and 0 < factor <= 1 and int(head_dim * factor) % 2 == 0
    refuse_unless(valid and int(head_dim * factor) > 0, f"partial_rotary_factor is {factor!r:.40}", checkpoint)
    return int(head_dim * factor)


def _tied(checkpoint: Checkpoint) -> bool:
    """Whether the embedding table is the head too: `lm_head.weight` is missing or a copy of the table.

    Stored tensors count, not `tie_word_embeddings`: fine-tuning tools untie and retie without updating config.json.
    """
    head, table = (checkpoint.tensors.get(name) for name in (HEAD, TABLE))
    return head is None or (table is not None and same_elements(head, table))


def _rope(
    text: TextConfig, rotated: int, checkpoint: Checkpoint, interleaved: bool
) -> tuple[float, tuple[int, int, int]]:
    """RoPE base and M-RoPE sections from `rope_parameters` (transformers 5) or `rope_theta`, `rope_scaling` (4)."""
    rope = text.rope_parameters or text.rope_scaling or {}
    kind = rope.get("rope_type") or rope.get("type") or "default"
    refuse_unless(kind in ("default", "mrope", "yarn"), f"rope type {kind!r} is not supported", checkpoint)
    refuse_unless(
        interleaved or not rope.get("mrope_interleaved"),
        "mrope_interleaved is not supported in this family",
        checkpoint,
    )
    section = rope.get("mrope_section", text.mrope_section)
    half = rotated // 2
    valid = isinstance(section, list) and len(section) == 3 and all(isinstance(n, int) and n > 0 for n in section)
    refuse_unless(
        valid and sum(section or []) == half,
        f"mrope_section {section} is not three positive numbers that sum to half of what is rotated of a head, {half}",
        checkpoint,
    )
    theta = rope.get("rope_theta", text.rope_theta)
    refuse_unless(isinstance(theta, int | float) and 0 < theta <= LARGEST, f"rope_theta is {theta!r:.40}", checkpoint)
    assert section is not None and theta is not None
    return float(theta), (section[0], section[1], section[2])


class _YarnConfig(msgspec.Struct):
    factor: Annotated[float, msgspec.Meta(ge=1, le=1e4)]
    original_max_position_embeddings: Positive | None = None
    attention_factor: PositiveFloat | None = None
    beta_fast: PositiveFloat | None = None
    beta_slow: PositiveFloat | None = None
    mscale: PositiveFloat | None = None
    mscale_all_dim: PositiveFloat | None = None
    truncate: bool = True


def _yarn(text: TextConfig, theta: float, checkpoint: Checkpoint) -> Yarn | None:
    """YaRN scaling with transformers' defaults (`_compute_yarn_parameters`), or None for another RoPE type."""
    part = "rope_parameters" if text.rope_parameters else "rope_scaling"
    rope = text.rope_parameters or text.rope_scaling or {}
    if "yarn" not in (rope.get("rope_type"), rope.get("type")):
        return None
    read = convert(rope, _YarnConfig, checkpoint.directory / "config.json", part)
    scale = _yarn_scale(read.factor, 1)
    if read.mscale and read.mscale_all_dim:
        scale = _yarn_scale(read.factor, read.mscale) / _yarn_scale(read.factor, read.mscale_all_dim)
    refuse_unless(theta > 1, f"rope_theta is {theta!r}: YaRN needs one above 1", checkpoint)
    fast, slow = read.beta_fast or 32.0, read.beta_slow or 1.0
    refuse_unless(slow < fast, f"{part}: beta_slow {slow} is not below beta_fast {fast}", checkpoint)
    return Yarn(
        factor=read.factor,
        original_length=read.original_max_position_embeddings or text.max_position_embeddings,
        attention_factor=read.attention_factor or scale,
        beta_fast=fast,
        beta_slow=slow,
        truncate=read.truncate,
    )


def _yarn_scale(factor: float, weight: float) -> float:
    return 0.1 * weight * math.log(factor) + 1
