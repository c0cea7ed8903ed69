"""Reads the tokenizer from a checkpoint's files, whichever it has, as one `tokenizer.json`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from qvl_runtime.printable import first_line
from qvl_runtime.templates import vetting
from qvl_runtime.templates.tokenizer import parse_tokenizer, pipeline

from ...checkpoint.directory import Checkpoint, abbreviate
from ...errors import ConfigError
from ...families.spec import ModelSpec
from . import tiktoken_bpe
from .special_tokens import SpecialTokens

NAME = "tokenizer.json"
RESAVE = "AutoTokenizer.from_pretrained(…).save_pretrained(…)"


class _Limits(msgspec.Struct):
    """Settings of a `tokenizer.json` that apply to every text; we ignore them, as transformers does by default."""

    truncation: object = None
    padding: object = None


@dataclass(frozen=True)
class Words:
    """The tokenizer, and the text of its `tokenizer.json`."""

    tokenizer: Tokenizer
    text: str


def read(checkpoint: Checkpoint, spec: ModelSpec, special: SpecialTokens, say: Callable[[str], None]) -> Words:
    """Returns the tokenizer with the tokens that other files add; `say` reports tokens beyond the embedding table.

    Raises ConfigError if there is none, or if it does not fit `config.json`.
    """
    where = checkpoint.directory / NAME
    text = _text(checkpoint, spec)
    tokenizer = _parsed(text, where)
    limits = msgspec.json.decode(text.encode(), type=_Limits)
    if _add(tokenizer, special) or limits != _Limits():
        text = str(tokenizer.to_str())
    _check(tokenizer, spec, checkpoint.directory)
    beyond = [token for token, number in tokenizer.get_vocab().items() if number >= spec.text.vocab_size]
    if beyond:
        say(
            f"{len(beyond)} tokens are beyond the model's table of {spec.text.vocab_size}; prompts that have them are "
            f"refused: {abbreviate(beyond)}"
        )
    return Words(tokenizer, text)


def _text(checkpoint: Checkpoint, spec: ModelSpec) -> str:
    """Returns `tokenizer.json`, or makes it from the tiktoken vocabulary, or from `vocab.json` and `merges.txt`."""
    kept = spec.tiktoken
    if (found := checkpoint.text(NAME)) is not None:
        return found
    if kept and (ranks := checkpoint.text(kept.file)) is not None:
        return tiktoken_bpe.convert(ranks, kept.special_tokens, kept.first_special, checkpoint.directory / kept.file)
    vocabulary, merges = checkpoint.text("vocab.json"), checkpoint.text("merges.txt")
    if vocabulary is not None and merges is not None:
        return _merged(vocabulary, merges, checkpoint.directory)
    raise ConfigError(
        f"{kept.file if kept else NAME} is missing",
        where=checkpoint.directory,
        fix="copy it from the base model" if kept else RESAVE,
    )


def _merged(vocabulary: str, merges: str, where: Path) -> str:
    """Builds the tokenizer as transformers' Qwen2Tokenizer does; added tokens follow later."""
    try:
        pairs = [line.split() for line in merges.splitlines() if line.strip() and not line.startswith("#")]
        model = models.BPE(
            json.loads(vocabulary),
            [(left, right) for left, right in pairs],
            continuing_subword_prefix="",
            end_of_word_suffix="",
        )
    except Exception as error:  # tokenizers raises bare Exception
        problem = f"vocab.json and merges.txt are not a vocabulary: {first_line(error)}"
        raise ConfigError(problem, where=where) from error
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.NFC()
    words = pre_tokenizers.Split(Regex(tiktoken_bpe.PATTERN), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    return str(tokenizer.to_str())


def _parsed(text: str, where: Path) -> Tokenizer:
    try:
        if fault := vetting.faults({"tokenizer": pipeline(text)}):
            raise ValueError(fault["tokenizer"])
        return parse_tokenizer(text)
    except ValueError as error:
        raise ConfigError(f"is not a tokenizer: {error}", where=where) from error


def _add(tokenizer: Tokenizer, special: SpecialTokens) -> bool:
    """Adds missing tokens of other files, as transformers does; raises ConfigError if an id would differ.

    Returns whether any token was added.
    """
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    missing = [(number, token) for number, token in sorted(special.added.items()) if token.content not in known]
    for number, token in missing:
        tokenizer.add_tokens([token])
        if (became := tokenizer.token_to_id(token.content)) != number:
            raise ConfigError(
                f"token {token.content!r} has id {number}, but the tokenizer makes it {became}",
                where=special.where,
                fix=RESAVE,
            )
    return _add_special(tokenizer, (*special.named.values(), *special.extra)) or bool(missing)


def _add_special(tokenizer: Tokenizer, names: Sequence[str]) -> bool:
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    missing = [name for name in dict.fromkeys(names) if name not in known and name]
    tokenizer.add_tokens([AddedToken(name, special=True) for name in missing])
    return bool(missing)


def _check(tokenizer: Tokenizer, spec: ModelSpec, where: Path) -> None:
    """Raises ConfigError if the tokenizer lacks special tokens of `config.json`."""
    for token in (spec.tokens.image, spec.tokens.video, *spec.tokens.stop):
        if token is None:
            continue
        if token >= spec.text.vocab_size or tokenizer.id_to_token(token) is None:
            raise ConfigError(f"special token {token} of config.json is not in tokenizer.json", where=where, fix=RESAVE)
