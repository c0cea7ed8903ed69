"""The tokenizer of a checkpoint from whichever of its files hold it, as one `tokenizer.json`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from qvl_runtime.templates import vetting
from qvl_runtime.templates.tokenizer import parse_tokenizer, pipeline

from ...checkpoint.directory import Checkpoint, few
from ...errors import ConfigError
from ...families.spec import ModelSpec
from . import tiktoken_bpe
from .special_tokens import SpecialTokens

NAME = "tokenizer.json"
RESAVE = "AutoTokenizer.from_pretrained(…).save_pretrained(…)"


class _Limits(msgspec.Struct):
    """What a `tokenizer.json` would have done to every text; transformers leaves it out unless asked, so do we."""

    truncation: object = None
    padding: object = None


@dataclass(frozen=True)
class Words:
    """The tokenizer, and the text of its `tokenizer.json`."""

    tokenizer: Tokenizer
    text: str


def read(checkpoint: Checkpoint, spec: ModelSpec, special: SpecialTokens, say: Callable[[str], None]) -> Words:
    """The tokenizer with the tokens that other files add to it; `say` is told of tokens that the model has no row for.

    Raises ConfigError where there is none, or where it does not fit `config.json`.
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
            f"refused: {few(beyond)}"
        )
    return Words(tokenizer, text)


def _text(checkpoint: Checkpoint, spec: ModelSpec) -> str:
    """`tokenizer.json` of the checkpoint, or made of `vocab.json` and `merges.txt` or its tiktoken vocabulary."""
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
    """As transformers' Qwen2Tokenizer is built; added tokens come later."""
    try:
        pairs = [line.split() for line in merges.splitlines() if line.strip() and not line.startswith("#")]
        model = models.BPE(
            json.loads(vocabulary),
            [(left, right) for left, right in pairs],
            continuing_subword_prefix="",
            end_of_word_suffix="",
        )
    except Exception as error:  # tokenizers raises bare Exception
        reason = str(error).splitlines()[0]
        raise ConfigError(f"vocab.json and merges.txt are not a vocabulary: {reason}", where=where) from error
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
    """Add what other files say and it lacks, as transformers does; raises ConfigError where an id would be another."""
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
    """It must have the special tokens of `config.json`."""
    for token in (spec.tokens.image, spec.tokens.video, *spec.tokens.stop):
        if token is None:
            continue
        if token >= spec.text.vocab_size or tokenizer.id_to_token(token) is None:
            raise ConfigError(f"special token {token} of config.json is not in tokenizer.json", where=where, fix=RESAVE)
