"""Random tiny checkpoints of each family, as transformers saves them, with the reference tokenizer and template.

`python -m tests.oracles.tiny FAMILY OUT` writes one, to be exported by hand. The linears of its language model are
whole blocks of 32 columns, which every target takes.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from . import families
from .families import REFERENCE
from .shapes import IM_END, IMAGE, SHAPES, VIDEO, Shape

__all__ = ["ATTENTION", "FAMILIES", "FREE_SIZES", "IMAGE", "REFERENCE", "SHAPES", "VIDEO", "build", "save"]

TEXT_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "preprocessor_config.json")
FAMILIES = families.available()
FREE_SIZES = tuple(name for name in FAMILIES if families.find(name).free_sizes)
"""Families that take videos, and images of any size."""
ATTENTION = tuple(name for name in FAMILIES if not families.find(name).recurrent(SHAPES["small"]))
"""Families without linear attention, which engines lack."""


def build(family: str, shape: Shape, seed: int = 0) -> Any:
    """A model whose weights are spread so that logits differ clearly between tokens."""
    torch.manual_seed(seed)
    found = families.find(family)
    model = found.build(shape)
    _spread(model, found.zero_centered)
    return model.eval()


@torch.no_grad()
def _spread(model: Any, zero_centered: tuple[str, ...]) -> None:
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2:
            fan_in = parameter[0].numel()
            table = ("embed_tokens.weight", "wte.weight", "positional_embedding", "pos_embed", "query")
            parameter.normal_(std=1.0 if name.endswith(table) else fan_in**-0.5)
        elif name.endswith("A_log"):
            parameter.normal_(mean=-3.0, std=1.0)  # states that last for tens of tokens
        else:
            parameter.normal_(mean=0.0 if name.endswith(("bias", *zero_centered)) else 1.0, std=0.1)
    if model.config.tie_word_embeddings:
        model.tie_weights()


def save(model: Any, directory: Path, dtype: torch.dtype = torch.float32, **options: Any) -> Path:
    """Writes the checkpoint as transformers does, with the text files a real one has."""
    family = families.find(model.config.model_type)
    model.to(dtype).save_pretrained(directory, **options)
    model.to(torch.float32)
    if family.save_texts:
        family.save_texts(directory)
        return directory
    for name in TEXT_FILES:
        shutil.copyfile(REFERENCE / name, directory / name)
    if family.images:
        images = json.loads((REFERENCE / "preprocessor_config.json").read_text())
        images["size"]["shortest_edge"] = family.images["min_pixels"]
        (directory / "preprocessor_config.json").write_text(json.dumps(images | family.images))
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [IM_END, 351]}))
    return directory


if __name__ == "__main__":
    name, out = sys.argv[1:]
    save(build(name, SHAPES["small"]), Path(out))
