"""The text files of a bundle: `tokenizer.json` and `chat_template.jinja`, checked before the long work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ...checkpoint.directory import Checkpoint
from ...families.spec import ModelSpec
from . import chat_templates, special_tokens
from . import tokenizer as tokenizer_files


@dataclass(frozen=True)
class Texts:
    """The texts that prompts are built from; `special_tokens` are variables of the template."""

    tokenizer: str
    template: str
    special_tokens: Mapping[str, str]


def read(checkpoint: Checkpoint, spec: ModelSpec, say: Callable[[str], None] = lambda _: None) -> Texts:
    """Reads the texts of a checkpoint; raises ConfigError if they do not fit each other or `config.json`.

    `say` reports which of several files was chosen, and tokens that prompts must not contain.
    """
    special = special_tokens.read(checkpoint, spec)
    words = tokenizer_files.read(checkpoint, spec, special, say)
    template = chat_templates.choose(checkpoint, spec, words.tokenizer, special.named, say)
    return Texts(words.text, template, special.named)


def encoded(texts: Texts) -> dict[str, bytes]:
    """Returns the content of both files by name."""
    return {"tokenizer.json": texts.tokenizer.encode(), "chat_template.jinja": texts.template.encode()}


def write(texts: Texts, directory: Path) -> list[str]:
    """Writes both files and returns their names."""
    files = encoded(texts)
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return list(files)
