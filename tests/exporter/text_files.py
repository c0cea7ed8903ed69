"""The text files of a checkpoint in tests: writing them, and reading them as an export does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers.utils import logging

from qvl_export import families
from qvl_export.bundle.text_files import texts
from qvl_export.bundle.text_files.texts import Texts
from qvl_export.checkpoint.directory import Checkpoint
from tests.oracles.tiny import REFERENCE

FILES = ("tokenizer.json", "config.json", "preprocessor_config.json", "generation_config.json", "model.safetensors")
WHOLE = json.loads((REFERENCE / "tokenizer.json").read_text("utf-8"))
IM_START, IM_END, IMAGE = "<|im_start|>", "<|im_end|>", "<|image_pad|>"
TEXT = f"Read e\u0301 1.5  don't{IM_END}\n<|new|>é<|x|>{IMAGE}"
BOM = "\ufeff"
QWEN2: dict[str, Any] = {"tokenizer_class": "Qwen2Tokenizer"}
AS_OBJECT = {"content": IM_START, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}


def without_texts(directory: Path) -> Path:
    """Links the reference checkpoint in `directory`, without a tokenizer's configuration and chat template."""
    logging.set_verbosity_error()
    for name in FILES:
        (directory / name).symlink_to(REFERENCE / name)
    return directory


def put(here: Path, **files: Any) -> None:
    """Files whose dots are underscores twice: texts as they are, all else as JSON."""
    for name, content in files.items():
        path = here / name.replace("__", ".")
        path.unlink(missing_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")


def read(here: Path, said: list[str] | None = None) -> Texts:
    checkpoint = Checkpoint(here)
    return texts.read(checkpoint, families.read_spec(checkpoint), (said if said is not None else []).append)


def ids(found: Texts, text: str = TEXT) -> list[int]:
    from tokenizers import Tokenizer

    return list(Tokenizer.from_str(found.tokenizer).encode(text, add_special_tokens=False).ids)


def by_id(tokens: list[dict[str, Any]]) -> dict[str, Any]:
    """`added_tokens` of a tokenizer.json as the `added_tokens_decoder` of a tokenizer_config.json."""
    return {str(token["id"]): {key: value for key, value in token.items() if key != "id"} for token in tokens}
