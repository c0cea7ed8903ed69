"""Qwen-VL (first generation): a CLIP-like tower for 448-pixel squares, 256 queries, Qwen-7B with one-dimensional RoPE.

Its tensors have the names of Qwen-7B; `tensors` maps them to the names of later families.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated

import msgspec
import numpy as np

from qvl_runtime.manifest import BoxNotation, ImageGeometry, ImageTokens, Tokens, VideoTiming

from ..checkpoint.derived_tensors import reordered, resized_table, transposed
from ..checkpoint.directory import Checkpoint
from ..checkpoint.safetensors_reader import StoredTensor, Tensor
from .config import Depth, Epsilon, Positive, PositiveFloat, convert, refuse_unless
from .spec import ModelSpec, ResamplerSpec, TextSpec, Tiktoken, VisionSpec

QUERIES = 256
HEAD_SIZE = 128
"""Head size of the resampler."""
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
"""Mean and standard deviation of CLIP's preprocessing."""
SPECIAL_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *(f"<|extra_{index}|>" for index in range(205)),
    *("<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>", "<img>", "</img>", "<imgpad>"),
)
CONTENT = (
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{% set images.count = images.count + 1 %}"
    "{{ 'Picture ' ~ images.count ~ ': <img><imgpad></img>\\n' }}"
    "{% elif part['text'] %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
)
"""Content of one message; images are numbered through the whole conversation."""
CHATML = (
    "{% set images = namespace(count=0) %}{% if messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}"
    "{% for message in messages %}{{ '<|im_start|>' ~ message['role'] ~ '\\n' }}" + CONTENT + "{{ '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
RAW = "{% set images = namespace(count=0) %}{% for message in messages %}" + CONTENT + "{% endfor %}"
"""Template of the base model, which is not tuned to chat: its prompt is continued."""
NAMES = (
    (r"transformer\.wte\.", "model.embed_tokens."),
    (r"transformer\.ln_f\.", "model.norm."),
    (r"transformer\.h\.(\d+)\.ln_1\.", r"model.layers.\1.input_layernorm."),
    (r"transformer\.h\.(\d+)\.ln_2\.", r"model.layers.\1.post_attention_layernorm."),
    (r"transformer\.h\.(\d+)\.attn\.c_proj\.", r"model.layers.\1.self_attn.o_proj."),
    (r"transformer\.h\.(\d+)\.mlp\.w1\.", r"model.layers.\1.mlp.up_proj."),
    (r"transformer\.h\.(\d+)\.mlp\.w2\.", r"model.layers.\1.mlp.gate_proj."),
    (r"transformer\.h\.(\d+)\.mlp\.c_proj\.", r"model.layers.\1.mlp.down_proj."),
    (r"transformer\.visual\.conv1\.", "visual.patch_embed.proj."),
    (r"transformer\.visual\.positional_embedding$", "visual.patch_embed.position.weight"),
    (r"transformer\.visual\.ln_pre\.", "visual.patch_embed.norm."),
    (r"transformer\.visual\.transformer\.resblocks\.(\d+)\.ln_([12])\.", r"visual.blocks.\1.norm\2."),
    (r"transformer\.visual\.transformer\.resblocks\.(\d+)\.attn\.in_proj\.", r"visual.blocks.\1.attn.qkv."),
    (r"transformer\.visual\.transformer\.resblocks\.(\d+)\.attn\.out_proj\.", r"visual.blocks.\1.attn.proj."),
    (r"transformer\.visual\.transformer\.resblocks\.(\d+)\.mlp\.c_fc\.", r"visual.blocks.\1.mlp.fc1."),
    (r"transformer\.visual\.transformer\.resblocks\.(\d+)\.mlp\.c_proj\.", r"visual.blocks.\1.mlp.fc2."),
    (r"transformer\.visual\.attn_pool\.query$", "visual.merger.query.weight"),
    (r"transformer\.visual\.attn_pool\.pos_embed$", "visual.merger.query_position.weight"),
    (r"transformer\.visual\.attn_pool\.attn\.out_proj\.", "visual.merger.out_proj."),
    (r"transformer\.visual\.attn_pool\.", "visual.merger."),
    (r"transformer\.visual\.ln_post\.", "visual.merger.ln_post."),
    (r"transformer\.visual\.proj$", "visual.merger.proj.weight"),
)
"""Patterns of tensor names and their names in a graph; the first match counts."""
FUSED = (
    (r"transformer\.h\.(\d+)\.attn\.c_attn\.(weight|bias)", r"model.layers.\1.self_attn.{}_proj.\2"),
    (r"transformer\.visual\.attn_pool\.attn\.in_proj_(weight|bias)", r"visual.merger.{}_proj.\1"),
)
"""Tensors of queries, keys and values stacked along the rows, and their names in a graph."""


class VisualConfig(msgspec.Struct):
    """`visual` of `config.json`."""

    heads: Positive
    image_size: Annotated[int, msgspec.Meta(gt=0, le=2048)]
    image_start_id: Positive
    layers: Depth
    mlp_ratio: Annotated[float, msgspec.Meta(gt=0, le=64)]
    output_dim: Positive
    patch_size: Positive
    width: Positive

    @property
    def side(self) -> int:
        """Patches per side."""
        return self.image_size // self.patch_size


class Config(msgspec.Struct):
    """`config.json`; the inner size of an MLP is half its `intermediate_size`."""

    hidden_size: Positive
    intermediate_size: Positive
    num_hidden_layers: Depth
    num_attention_heads: Positive
    vocab_size: Positive
    visual: VisualConfig
    kv_channels: Positive = 128
    layer_norm_epsilon: Epsilon = 1e-6
    max_position_embeddings: Positive = 8192
    rotary_emb_base: PositiveFloat = 10000
    rotary_pct: PositiveFloat = 1
    seq_length: Positive = 2048
    use_dynamic_ntk: bool = True
    use_logn_attn: bool = True
    no_bias: bool = True
    scale_attn_weights: bool = True
    tie_word_embeddings: bool = False


def read(checkpoint: Checkpoint) -> ModelSpec:
    """Reads the specification of a Qwen-VL checkpoint; raises ConfigError for unsupported values."""
    config = _config(checkpoint)
    packed = any(name.endswith(".qweight") for name in checkpoint.tensors)
    refuse_unless(not packed, "quantized checkpoints of Qwen-VL are not supported", checkpoint, "export the float one")
    first = config.visual.image_start_id - SPECIAL_TOKENS.index("<img>")
    generation = checkpoint.json("generation_config.json") or {}
    chats = generation.get("chat_format") != "raw"
    stop = ("<|endoftext|>", "<|im_end|>", "<|im_start|>") if chats else ("<|endoftext|>",)
    return ModelSpec(
        "qwen",
        _vision(config.visual, checkpoint),
        _text(config, checkpoint),
        _image(config.visual),
        Tokens(
            image=first + SPECIAL_TOKENS.index("<imgpad>"),
            video=None,
            stop=[first + SPECIAL_TOKENS.index(token) for token in stop],
        ),
        VideoTiming(),
        config.max_position_embeddings,
        Tiktoken("qwen.tiktoken", SPECIAL_TOKENS, first),
        CHATML if chats else RAW,
        BoxNotation(syntax="marks", unit="thousandth"),
        ImageTokens(start="<img>", end="</img>", layout="queries"),
    )


def _config(checkpoint: Checkpoint) -> Config:
    refuse_unless("visual" in checkpoint.config, "is a Qwen without a vision tower, not Qwen-VL", checkpoint)
    return convert(checkpoint.config, Config, checkpoint.directory / "config.json")


def _image(visual: VisualConfig) -> ImageGeometry:
    pixels = visual.image_size**2
    return ImageGeometry(
        patch_size=visual.patch_size,
        temporal_patch_size=1,
        spatial_merge_size=1,
        min_pixels=pixels,
        max_pixels=pixels,
        image_mean=MEAN,
        image_std=STD,
        square=visual.image_size,
        queries=QUERIES,
    )


def _vision(visual: VisualConfig, checkpoint: Checkpoint) -> VisionSpec:
    refuse_unless(visual.image_size % visual.patch_size == 0, "image_size is not whole patches", checkpoint)
    refuse_unless(visual.width % visual.heads == 0, f"{visual.heads} heads do not divide {visual.width}", checkpoint)
    refuse_unless(visual.output_dim % HEAD_SIZE == 0, f"output_dim is not a multiple of {HEAD_SIZE}", checkpoint)
    refuse_unless(
        visual.image_start_id >= SPECIAL_TOKENS.index("<img>"), f"image_start_id is {visual.image_start_id}", checkpoint
    )
    return VisionSpec(
        depth=visual.layers,
        hidden_size=visual.width,
        intermediate_size=int(visual.width * visual.mlp_ratio),
        num_heads=visual.heads,
        patch_dim=3 * visual.patch_size**2,
        out_hidden_size=visual.output_dim,
        spatial_merge_size=1,
        norm="layer",
        activation="gelu",
        gated=False,
        full_attention_blocks=frozenset(range(visual.layers)),
        patches=visual.side**2,
        resampler=ResamplerSpec(QUERIES, visual.output_dim // HEAD_SIZE),
    )


def _text(config: Config, checkpoint: Checkpoint) -> TextSpec:
    size, heads = config.hidden_size, config.num_attention_heads
    refuse_unless(size == config.visual.output_dim, "visual.output_dim is not hidden_size", checkpoint)
    refuse_unless(config.kv_channels * heads == size, f"{heads} heads of kv_channels are not {size}", checkpoint)
    plain = config.rotary_pct == 1 and config.no_bias and config.scale_attn_weights and not config.tie_word_embeddings
    refuse_unless(plain, "rotary_pct, no_bias, scale_attn_weights or tie_word_embeddings is not Qwen-VL's", checkpoint)
    half = config.kv_channels // 2
    refuse_unless(config.kv_channels == 2 * half, f"kv_channels {config.kv_channels} is odd", checkpoint)
    return TextSpec(
        hidden_size=size,
        intermediate_size=config.intermediate_size // 2,
        num_layers=config.num_hidden_layers,
        num_heads=heads,
        num_key_value_heads=heads,
        head_dim=config.kv_channels,
        vocab_size=config.vocab_size,
        rms_norm_eps=config.layer_norm_epsilon,
        rope_theta=config.rotary_emb_base,
        mrope_section=(half, 0, 0),
        tied=False,
        ntk_length=config.seq_length if config.use_dynamic_ntk else 0,
        logn_length=config.seq_length if config.use_logn_attn else 0,
    )


def tensors(checkpoint: Checkpoint) -> Mapping[str, Tensor]:
    """The tensors by their names in the graphs; wrong shapes are left to the later check of shapes."""
    visual = _config(checkpoint).visual
    return {name: tensor for stored in checkpoint.tensors.values() for name, tensor in _placed(stored, visual)}


def _placed(stored: StoredTensor, visual: VisualConfig) -> Iterator[tuple[str, Tensor]]:
    """Yields the graph tensors made from a stored tensor, with their names."""
    for pattern, name in FUSED:
        if re.fullmatch(pattern, stored.name) and stored.shape[0] % 3 == 0:
            rows = stored.shape[0] // 3
            for index, letter in enumerate("qkv"):
                yield re.sub(pattern, name, stored.name).format(letter), stored.part(index * rows, rows)
            return
    for pattern, prefix in NAMES:
        if re.match(pattern, stored.name):
            name = re.sub(pattern, prefix, stored.name)
            yield name, _arranged(name, stored, visual)
            if name == "visual.merger.query_position.weight":
                yield "visual.merger.key_position.weight", _resized(stored, visual.side)
            return
    yield stored.name, stored


def _arranged(name: str, stored: StoredTensor, visual: VisualConfig) -> Tensor:
    """A tensor in the graph's form: kernels have an axis for their one frame; q, k and v of all heads are stacked."""
    if name == "visual.patch_embed.proj.weight" and len(stored.shape) == 4:
        return replace(stored, shape=(*stored.shape[:2], 1, *stored.shape[2:]))
    if ".attn.qkv." in name and stored.shape[0] == 3 * visual.width:
        # stored as q, k, v of one head, then of the next
        by_head = np.arange(3 * visual.width).reshape(visual.heads, 3, -1)
        return reordered(stored, by_head.transpose(1, 0, 2).reshape(-1))
    if name == "visual.patch_embed.position.weight":
        return _resized(stored, visual.side)
    return transposed(stored) if name == "visual.merger.proj.weight" and len(stored.shape) == 2 else stored


def _resized(stored: StoredTensor, side: int) -> Tensor:
    is_square = len(stored.shape) == 2 and math.isqrt(stored.shape[0]) ** 2 == stored.shape[0] > 0
    return resized_table(stored, side) if is_square else stored
