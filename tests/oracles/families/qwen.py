from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from transformers.convert_slow_tokenizer import bytes_to_unicode

from ..qwen_vl import QwenVl
from ..shapes import Shape
from . import REFERENCE, Family

SIZES = {64: (128, 4, 224, 2048), 96: (256, 8, 112, 512), 160: (384, 6, 448, 2048)}
"""Hidden size, heads, image size and trained length by the hidden size of other families: heads of the resampler are
of 128. Tables of 16 × 16 positions are used as they are, and spread over 8 × 8 and 32 × 32 patches."""


def build(shape: Shape) -> QwenVl:
    return QwenVl(config(shape))


def config(shape: Shape) -> dict[str, Any]:
    """`config.json`."""
    hidden, heads, image_size, seq_length = SIZES[shape.hidden]
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


def save_texts(directory: Path) -> None:
    """A tiktoken vocabulary instead of a tokenizer; the family has no chat template."""
    (directory / "qwen.tiktoken").write_text(reference_ranks())
    (directory / "generation_config.json").write_text(json.dumps({"chat_format": "chatml"}))


def reference_ranks() -> str:
    """The reference tokenizer's vocabulary as a tiktoken file: its ids are in the order of merges."""
    byte_of = {name: byte for byte, name in bytes_to_unicode().items()}
    vocabulary = json.loads((REFERENCE / "tokenizer.json").read_text())["model"]["vocab"]
    words = {bytes(byte_of[char] for char in token): rank for token, rank in vocabulary.items()}
    return "".join(f"{base64.b64encode(word).decode()} {rank}\n" for word, rank in words.items())


FAMILY = Family(
    build,
    frozenset(),
    "<ref>{0}</ref><box>({1},{2}),({3},{4})</box>",
    llm_inputs=frozenset({"ntk_alpha"}),
    free_sizes=False,
    always_untied=True,
    save_texts=save_texts,
)
