"""What tests need to know of each family: one module per `model_type`, found by its name, each with a `FAMILY`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..shapes import IM_END, IMAGE, VIDEO, VISION_END, VISION_START, VOCAB, Shape

REFERENCE = Path(__file__).parents[2] / "checkpoints" / "reference"
"""The trained checkpoint whose tokenizer, template and preprocessing the tiny ones have."""


@dataclass(frozen=True)
class Family:
    """A family's reference model, and what a bundle of it must have.

    `build` makes the reference model of a shape; its weights are drawn by `tiny.build`. `vision_inputs` are the inputs
    of the vision graph besides the pixels, `llm_inputs` those that the language model has only in this family.
    `notation` is a box as an answer has it, `{0}` its label and `{1}` to `{4}` its left, top, right and bottom, in
    thousandths of each side or in pixels of the resized image. `deepstack` families have features for the first layers
    of the language model. Families with `free_sizes` take images of any size, and videos. `always_untied` families
    never use the embedding table as the head. `images` are the changes to the reference's `preprocessor_config.json`.
    `save_texts` writes other text files than the reference's. Names of norms whose gains are stored minus one end with
    one of `zero_centered`. `recurrent` gives the layers of a shape that have linear attention.
    """

    build: Callable[[Shape], Any]
    vision_inputs: frozenset[str]
    notation: str
    thousandths: bool = True
    llm_inputs: frozenset[str] = frozenset()
    deepstack: bool = False
    experts: bool = False
    free_sizes: bool = True
    always_untied: bool = False
    images: Mapping[str, Any] = field(default_factory=dict)
    save_texts: Callable[[Path], None] | None = None
    zero_centered: tuple[str, ...] = ()
    recurrent: Callable[[Shape], frozenset[int]] = lambda shape: frozenset()


def available() -> tuple[str, ...]:
    """The families that tests run over."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def find(name: str) -> Family:
    family: Family = importlib.import_module(f"{__name__}.{name}").FAMILY
    return family


def text_config(shape: Shape) -> dict[str, Any]:
    """`text_config` of a language model with the sizes of `shape`."""
    return {
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


def config(kind: type, shape: Shape, text: Mapping[str, Any], vision: Mapping[str, Any]) -> Any:
    """A configuration of transformers with the special tokens of the reference tokenizer."""
    return kind(
        text_config=dict(text),
        vision_config=dict(vision),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
        tie_word_embeddings=shape.tied,
    )
