"""Reading the configuration files that the families share, in the forms of transformers 4 and 5."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from qvl_runtime.manifest import ImageGeometry, Tokens

from ..checkpoint import Checkpoint
from ..errors import ConfigError
from ..safetensors_file import same_elements
from .spec import TextSpec, Yarn

BICUBIC = 3
Positive = Annotated[int, msgspec.Meta(gt=0, le=1 << 20)]
"""A size: above any published one, below what would exhaust memory before the weights are looked at."""
Depth = Annotated[int, msgspec.Meta(gt=0, le=1024)]
Pixels = Annotated[int, msgspec.Meta(gt=0, le=1 << 40)]
Finite = Annotated[float, msgspec.Meta(ge=-sys.float_info.max, le=sys.float_info.max)]
PositiveFloat = Annotated[float, msgspec.Meta(gt=0, le=sys.float_info.max)]
T = TypeVar("T")


class TextConfig(msgspec.Struct):
    """The part of `config.json` that describes the language model."""

    hidden_size: Positive
    intermediate_size: Positive
    num_hidden_layers: Depth
    num_attention_heads: Positive
    num_key_value_heads: Positive
    vocab_size: Positive
    max_position_embeddings: Positive
    rms_norm_eps: PositiveFloat
    hidden_act: str = "silu"
    rope_theta: PositiveFloat | None = None
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None
    mrope_section: list[int] | None = None
    head_dim: Positive | None = None
    use_sliding_window: bool = False
    layer_types: list[str] | None = None


class RootConfig(msgspec.Struct):
    """Top-level ids of `config.json`."""

    image_token_id: Annotated[int, msgspec.Meta(ge=0)]
    video_token_id: Annotated[int, msgspec.Meta(ge=0)]


class _Size(msgspec.Struct):
    shortest_edge: Pixels | None = None
    longest_edge: Pixels | None = None
    min_pixels: Pixels | None = None
    max_pixels: Pixels | None = None


class _Preprocessor(msgspec.Struct):
    image_mean: Annotated[list[Finite], msgspec.Meta(min_length=3, max_length=3)]
    image_std: Annotated[list[PositiveFloat], msgspec.Meta(min_length=3, max_length=3)]
    patch_size: Positive
    temporal_patch_size: Positive
    merge_size: Positive
    size: _Size = msgspec.field(default_factory=_Size)
    min_pixels: Pixels | None = None
    max_pixels: Pixels | None = None
    resample: int = BICUBIC
    rescale_factor: Finite = 1 / 255
    do_resize: bool = True
    do_rescale: bool = True
    do_normalize: bool = True


def convert(value: Any, kind: type[T], where: Path, part: str = "") -> T:
    """`value` as `kind`; raises ConfigError naming the file and the field."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        message = str(error).replace("`$.", f"`{part}.") if part else str(error)
        raise ConfigError(
            message if "`$" in str(error) or not part else f"{message} - at `{part}`", where=where
        ) from error


def refuse_unless(condition: bool, what: str, checkpoint: Checkpoint, fix: str = "") -> None:
    """Raise ConfigError about `config.json` unless `condition` holds."""
    if not condition:
        raise ConfigError(what, where=checkpoint.directory / "config.json", fix=fix)


def read_text(
    checkpoint: Checkpoint,
    defaults: Mapping[str, Any] | None = None,
    free_head_dim: bool = False,
    interleaved: bool = False,
) -> tuple[TextSpec, int]:
    """The language model and its position limit; flat (transformers 4) or under `text_config` (transformers 5).

    `defaults` are values of the family for what is not said; with `free_head_dim` heads need not share hidden_size out.
    """
    root = checkpoint.config
    where = checkpoint.directory / "config.json"
    said = root.get("text_config") or root
    raw = {**(defaults or {}), **said} if isinstance(said, dict) else said
    text = convert(raw, TextConfig, where, "text_config" if "text_config" in root else "")
    refuse_unless(text.hidden_act == "silu", f"hidden_act {text.hidden_act!r} is not supported", checkpoint)
    windowed = text.use_sliding_window or "sliding_attention" in (text.layer_types or [])
    refuse_unless(not windowed, "sliding window attention (use_sliding_window) is not supported", checkpoint)
    heads = text.num_attention_heads
    head_dim = (text.head_dim if free_head_dim else None) or text.hidden_size // heads
    refuse_unless(
        (free_head_dim or text.hidden_size % heads == 0) and heads % text.num_key_value_heads == 0,
        f"{heads} attention heads do not divide hidden_size {text.hidden_size}, "
        f"or {text.num_key_value_heads} key/value heads do not divide them",
        checkpoint,
    )
    refuse_unless(text.head_dim in (None, head_dim), f"head_dim {text.head_dim}", checkpoint)
    theta, section = _rope(text, head_dim, checkpoint, interleaved)
    yarn = _yarn(text, theta, checkpoint)
    spec = TextSpec(
        hidden_size=text.hidden_size,
        intermediate_size=text.intermediate_size,
        num_layers=text.num_hidden_layers,
        num_heads=heads,
        num_key_value_heads=text.num_key_value_heads,
        head_dim=head_dim,
        vocab_size=text.vocab_size,
        rms_norm_eps=text.rms_norm_eps,
        rope_theta=theta,
        mrope_section=section,
        mrope_interleaved=interleaved,
        tied=_tied(checkpoint),
        yarn=yarn,
    )
    longest = int(yarn.original_length * yarn.factor) if yarn else 0
    return spec, max(text.max_position_embeddings, longest)


def _tied(checkpoint: Checkpoint) -> bool:
    """Whether logits come from the embedding table: there is no `lm_head.weight`, or it is a copy of the table.

    What is stored counts, not `tie_word_embeddings`: fine-tuning tools untie and retie without telling config.json.
    """
    head, table = (checkpoint.tensors.get(name) for name in ("lm_head.weight", "model.embed_tokens.weight"))
    return head is None or (table is not None and same_elements(head, table))


def _rope(
    text: TextConfig, head_dim: int, checkpoint: Checkpoint, interleaved: bool
) -> tuple[float, tuple[int, int, int]]:
    """Base frequency and M-RoPE sections from `rope_parameters` (5) or `rope_theta` and `rope_scaling` (4)."""
    rope = text.rope_parameters or text.rope_scaling or {}
    kind = rope.get("rope_type") or rope.get("type") or "default"
    refuse_unless(kind in ("default", "mrope", "yarn"), f"rope type {kind!r} is not supported", checkpoint)
    refuse_unless(
        interleaved or not rope.get("mrope_interleaved"),
        "mrope_interleaved is not supported in this family",
        checkpoint,
    )
    section = rope.get("mrope_section", text.mrope_section)
    half = head_dim // 2
    valid = isinstance(section, list) and len(section) == 3 and all(isinstance(n, int) and n > 0 for n in section)
    refuse_unless(
        valid and sum(section or []) == half,
        f"mrope_section {section} is not three positive numbers that sum to half the head size, {half}",
        checkpoint,
    )
    theta = rope.get("rope_theta", text.rope_theta)
    refuse_unless(isinstance(theta, int | float) and 0 < theta < math.inf, f"rope_theta is {theta!r}", checkpoint)
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
    """YaRN scaling with transformers' defaults (`_compute_yarn_parameters`), None where it is not asked for."""
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


def read_image(checkpoint: Checkpoint, window: int = 0, position_table: int = 0) -> ImageGeometry:
    """Image geometry from `preprocessor_config.json`, or from `processor_config.json` as transformers 5 nests it.

    `window` and `position_table` are the tower's own, see `ImageGeometry`.
    """
    raw, where = checkpoint.json("preprocessor_config.json"), checkpoint.directory / "preprocessor_config.json"
    if raw is None:
        nested = checkpoint.json("processor_config.json") or {}
        raw, where = nested.get("image_processor"), checkpoint.directory / "processor_config.json"
    if raw is None:
        raise ConfigError(
            "has neither preprocessor_config.json nor an image_processor in processor_config.json",
            where=checkpoint.directory,
            fix="copy it from the base model",
        )
    read = convert(raw, _Preprocessor, where)
    if read.resample != BICUBIC or abs(read.rescale_factor * 255 - 1) > 1e-6:
        raise ConfigError("resample and rescale_factor must be bicubic (3) and 1/255", where=where)
    if not (read.do_resize and read.do_rescale and read.do_normalize):
        raise ConfigError("do_resize, do_rescale and do_normalize must be true", where=where)
    low = read.min_pixels or read.size.shortest_edge or read.size.min_pixels
    high = read.max_pixels or read.size.longest_edge or read.size.max_pixels
    if low is None or high is None or low > high:
        raise ConfigError(f"min_pixels {low} and max_pixels {high} are not bounds", where=where)
    return ImageGeometry(
        patch_size=read.patch_size,
        temporal_patch_size=read.temporal_patch_size,
        spatial_merge_size=read.merge_size,
        min_pixels=low,
        max_pixels=high,
        image_mean=read.image_mean,
        image_std=list(read.image_std),
        window=window,
        position_table=position_table,
    )


def check_vision(
    image: ImageGeometry, patch: tuple[int, int, int], width: int, heads: int, checkpoint: Checkpoint
) -> None:
    """Refuse a tower whose patches (side, frames, merge) differ from the preprocessor, or whose heads do not fit."""
    theirs = (image.patch_size, image.temporal_patch_size, image.spatial_merge_size)
    refuse_unless(patch == theirs, f"vision patches {patch} are not the preprocessor's {theirs}", checkpoint)
    refuse_unless(
        width % (heads * 4) == 0, f"{heads} vision heads do not divide {width} into multiples of 4", checkpoint
    )


def read_tokens(checkpoint: Checkpoint) -> Tokens:
    """Special token ids; stop tokens come from the generation config, else from `config.json`."""
    where = checkpoint.directory / "config.json"
    root = convert(checkpoint.config, RootConfig, where)
    generation = checkpoint.json("generation_config.json") or {}
    nested = checkpoint.config.get("text_config") or {}
    eos = generation.get("eos_token_id", checkpoint.config.get("eos_token_id", nested.get("eos_token_id")))
    stop: list[Any] = eos if isinstance(eos, list) else [eos]
    if not stop or not all(type(token) is int and token >= 0 for token in stop):
        raise ConfigError(f"eos_token_id is {eos!r}: no stop token", where=checkpoint.directory)
    return Tokens(image=root.image_token_id, video=root.video_token_id, stop=stop)
