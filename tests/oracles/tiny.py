"""Random tiny checkpoints of each family, as transformers saves them, with the reference tokenizer and template."""

from __future__ import annotations

import base64
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

from tests.oracles import qwen_vl

REFERENCE = Path(__file__).parents[1] / "checkpoints" / "reference"
TEXT_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "preprocessor_config.json")
VOCAB = 384
IMAGE, VIDEO, VISION_START, VISION_END, IM_END = 363, 364, 360, 361, 353


@dataclass(frozen=True)
class Shape:
    """Sizes of a tiny model; heads are chosen so that grouping ratios and head sizes differ between shapes.

    `full_blocks` are the vision blocks with full attention where others have windows, or those that feed DeepStack.
    """

    hidden: int
    heads: int
    kv_heads: int
    layers: int
    vision_hidden: int
    vision_heads: int
    vision_depth: int
    full_blocks: tuple[int, ...]
    mrope: tuple[int, int, int]
    tied: bool
    ffn: int = 96


SHAPES = {
    "small": Shape(64, 4, 2, 2, 64, 4, 2, (1,), (2, 3, 3), True),
    "deep": Shape(96, 6, 1, 5, 48, 3, 4, (0, 3), (4, 2, 2), False, ffn=84),
    "wide": Shape(160, 5, 5, 3, 80, 2, 3, (), (4, 6, 6), True, ffn=212),
}
FREE_SIZES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")
"""Families that take videos, and images of any size."""
FAMILIES = ("qwen", *FREE_SIZES)
QWEN_VL = {64: (128, 4, 224, 2048), 96: (256, 8, 112, 512), 160: (384, 6, 448, 2048)}
"""Hidden size, heads, image size and trained length of Qwen-VL by the hidden size of others: heads of its resampler are
of 128. Tables of 16 × 16 positions are used as they are, and spread over 8 × 8 and 32 × 32 patches."""
QWEN3_IMAGES = {"patch_size": 16, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "min_pixels": 4096}
EXPERT = {64: 32, 96: 64, 160: 160}
"""Inner size of experts by hidden size: in the small shape gate and up together are square, in the wide one down is."""
TABLE = 7
"""The side of the table of positions."""


def hidden_size(family: str, shape: Shape) -> int:
    """Of the language model."""
    return QWEN_VL[shape.hidden][0] if family == "qwen" else shape.hidden


def build(family: str, shape: Shape, seed: int = 0) -> PreTrainedModel:
    """A model whose weights are spread so that logits differ clearly between tokens."""
    torch.manual_seed(seed)
    if family == "qwen":
        oracle: Any = qwen_vl.QwenVl(qwen_vl_config(shape))
        _spread(oracle)
        return oracle.eval()
    text: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.ffn,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": list(shape.mrope)},
        "eos_token_id": IM_END,
        "bos_token_id": 351,
        "pad_token_id": 351,
    }
    common: dict[str, Any] = {
        "text_config": text,
        "image_token_id": IMAGE,
        "video_token_id": VIDEO,
        "vision_start_token_id": VISION_START,
        "vision_end_token_id": VISION_END,
        "tie_word_embeddings": shape.tied,
    }
    if family == "qwen2_vl":
        vision = {
            "depth": shape.vision_depth,
            "embed_dim": shape.vision_hidden,
            "hidden_size": shape.hidden,
            "num_heads": shape.vision_heads,
            "mlp_ratio": 3,
        }
        model: PreTrainedModel = Qwen2VLForConditionalGeneration(Qwen2VLConfig(vision_config=vision, **common))
    elif family in ("qwen3_vl", "qwen3_vl_moe"):
        section = [2 * count for count in shape.mrope]  # heads are wider than the hidden size shared out
        text |= {"head_dim": 2 * sum(section)}
        text["rope_parameters"] |= {"mrope_section": section, "mrope_interleaved": True}
        common["vision_config"] = qwen3_vision(shape)
        if family == "qwen3_vl":
            model = Qwen3VLForConditionalGeneration(Qwen3VLConfig(**common))
        else:
            text |= {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": EXPERT[shape.hidden]}
            text |= {"mlp_only_layers": [1] if shape.layers > 2 else []}
            model = Qwen3VLMoeForConditionalGeneration(Qwen3VLMoeConfig(**common))
    else:
        vision = {
            "depth": shape.vision_depth,
            "hidden_size": shape.vision_hidden,
            "intermediate_size": shape.ffn,
            "num_heads": shape.vision_heads,
            "out_hidden_size": shape.hidden,
            "fullatt_block_indexes": list(shape.full_blocks),
            "tokens_per_second": 2,
            "window_size": 112,
        }
        model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(vision_config=vision, **common))
    _spread(model)
    return model.eval()


def qwen_vl_config(shape: Shape) -> dict[str, Any]:
    hidden, heads, image_size, seq_length = QWEN_VL[shape.hidden]
    return {
        "model_type": "qwen",
        "architectures": ["QWenLMHeadModel"],
        "hidden_size": hidden,
        "intermediate_size": 2 * shape.ffn,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": heads,
        "kv_channels": hidden // heads,
        "vocab_size": 576,
        "seq_length": seq_length,
        "max_position_embeddings": 8192,
        "layer_norm_epsilon": 1e-6,
        "rotary_emb_base": 10000,
        "rotary_pct": 1.0,
        "use_dynamic_ntk": True,
        "use_logn_attn": True,
        "no_bias": True,
        "tie_word_embeddings": False,
        "visual": {
            "heads": shape.vision_heads,
            "image_size": image_size,
            "image_start_id": 565,
            "layers": shape.vision_depth,
            "mlp_ratio": 2.45,
            "output_dim": hidden,
            "patch_size": 14,
            "width": shape.vision_hidden,
        },
    }


def qwen3_vision(shape: Shape) -> dict[str, Any]:
    return {
        "depth": shape.vision_depth,
        "hidden_size": shape.vision_hidden,
        "intermediate_size": shape.ffn,
        "num_heads": shape.vision_heads,
        "out_hidden_size": shape.hidden,
        "num_position_embeddings": TABLE**2,
        "deepstack_visual_indexes": list(shape.full_blocks),
    }


@torch.no_grad()
def _spread(model: PreTrainedModel) -> None:
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2:
            fan_in = parameter[0].numel()
            table = ("embed_tokens.weight", "wte.weight", "positional_embedding", "pos_embed", "query")
            parameter.normal_(std=1.0 if name.endswith(table) else fan_in**-0.5)
        else:
            parameter.normal_(mean=0.0 if name.endswith("bias") else 1.0, std=0.1)
    if model.config.tie_word_embeddings:
        model.tie_weights()


def save(model: PreTrainedModel, directory: Path, dtype: torch.dtype = torch.float32, **options: Any) -> Path:
    """Write the checkpoint as transformers does, with the text files a real one has."""
    model.to(dtype).save_pretrained(directory, **options)
    model.to(torch.float32)
    if model.config.model_type == "qwen":
        (directory / "qwen.tiktoken").write_text(reference_ranks())
        (directory / "generation_config.json").write_text(json.dumps({"chat_format": "chatml"}))
        return directory
    for name in TEXT_FILES:
        shutil.copyfile(REFERENCE / name, directory / name)
    if model.config.model_type.startswith("qwen3"):
        images = json.loads((REFERENCE / "preprocessor_config.json").read_text())
        images["size"]["shortest_edge"] = QWEN3_IMAGES["min_pixels"]
        (directory / "preprocessor_config.json").write_text(json.dumps(images | QWEN3_IMAGES))
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [IM_END, 351]}))
    return directory


def reference_ranks() -> str:
    """The reference tokenizer's vocabulary as a tiktoken file: its ids are in the order of merges."""
    byte_of = {name: byte for byte, name in bytes_to_unicode().items()}
    vocabulary = json.loads((REFERENCE / "tokenizer.json").read_text())["model"]["vocab"]
    words = {bytes(byte_of[char] for char in token): rank for token, rank in vocabulary.items()}
    return "".join(f"{base64.b64encode(word).decode()} {rank}\n" for word, rank in words.items())
