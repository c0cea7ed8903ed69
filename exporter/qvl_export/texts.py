"""The text files of a bundle: `tokenizer.json` and `chat_template.jinja`, tried before the long work."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from qvl_runtime.chat import ChatTemplate

from . import tiktoken_bpe
from .checkpoint import Checkpoint
from .errors import ConfigError
from .families.spec import ModelSpec


def write(checkpoint: Checkpoint, spec: ModelSpec, directory: Path) -> list[str]:
    """Write both; raises ConfigError where they do not fit each other or `config.json`."""
    tokenizer = _tokenizer(checkpoint, spec)
    vocabulary = _vocabulary(tokenizer, spec, checkpoint.directory)
    template, where = _chat_template(checkpoint, spec)
    rendered = ChatTemplate(template, where).render([{"role": "user", "content": [{"type": "image"}]}])
    if vocabulary.encode(rendered, add_special_tokens=False).ids.count(spec.tokens.image) != 1:
        raise ConfigError(f"does not place token {spec.tokens.image}, config.json's image token", where=where)
    (directory / "tokenizer.json").write_bytes(tokenizer.encode())
    (directory / "chat_template.jinja").write_bytes(template.encode())
    return ["tokenizer.json", "chat_template.jinja"]


def _vocabulary(tokenizer: str, spec: ModelSpec, where: Path) -> Tokenizer:
    """The tokenizer, which must have the special tokens."""
    try:
        vocabulary = Tokenizer.from_str(tokenizer)
    except Exception as error:  # tokenizers raises bare Exception
        raise ConfigError(f"is not a tokenizer: {error}", where=where / "tokenizer.json") from error
    for token in (spec.tokens.image, spec.tokens.video, *spec.tokens.stop):
        if token is None:
            continue
        if token >= spec.text.vocab_size or vocabulary.id_to_token(token) is None:
            raise ConfigError(f"special token {token} of config.json is not in tokenizer.json", where=where)
    return vocabulary


def _tokenizer(checkpoint: Checkpoint, spec: ModelSpec) -> str:
    """`tokenizer.json` of the checkpoint, or made of its tiktoken vocabulary."""
    tokenizer, kept = checkpoint.text("tokenizer.json"), spec.tiktoken
    if tokenizer is None and kept and (ranks := checkpoint.text(kept.file)) is not None:
        return tiktoken_bpe.convert(ranks, kept.special_tokens, kept.first_special, checkpoint.directory / kept.file)
    if tokenizer is None:
        raise ConfigError(
            f"{kept.file if kept else 'tokenizer.json'} is missing",
            where=checkpoint.directory,
            fix="copy it from the base model" if kept else "AutoTokenizer.from_pretrained(…).save_pretrained(…)",
        )
    return tokenizer


def _chat_template(checkpoint: Checkpoint, spec: ModelSpec) -> tuple[str, Path]:
    """From its own file, or from where older checkpoints keep it, and which file that was; else the family's."""
    if template := checkpoint.text("chat_template.jinja"):
        return template, checkpoint.directory / "chat_template.jinja"
    for name in ("chat_template.json", "tokenizer_config.json"):
        template = (checkpoint.json(name) or {}).get("chat_template")
        if isinstance(template, str):
            return template, checkpoint.directory / name
    if spec.chat_template:
        return spec.chat_template, checkpoint.directory
    raise ConfigError(
        "has no chat template", where=checkpoint.directory, fix="copy chat_template.jinja from the base model"
    )
