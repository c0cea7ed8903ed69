"""Parses and runs tokenizers so that every failure, panics included, becomes a one-line error."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from tokenizers import Tokenizer

from ..errors import PromptError
from ..printable import first_line


class _Pipeline(msgspec.Struct):
    """The parts of a tokenizer other than its model (vocabulary and merges)."""

    added_tokens: list[dict[str, Any]] = []
    normalizer: Any = None
    pre_tokenizer: Any = None
    post_processor: Any = None
    decoder: Any = None


def pipeline(text: str) -> str:
    """Returns the `tokenizer.json` with its model replaced by a BPE of only the 256 bytes; raises ValueError."""
    try:
        parts: dict[str, Any] = msgspec.to_builtins(msgspec.json.decode(text.encode(), type=_Pipeline))
    except (msgspec.MsgspecError, RecursionError, UnicodeEncodeError) as error:
        raise ValueError(str(error)) from error
    letters = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x144)]  # the letters of byte-level vocabularies
    model = {"type": "BPE", "vocab": {chr(letter): place for place, letter in enumerate(letters)}, "merges": []}
    return json.dumps({"version": "1.0", "truncation": None, "padding": None, **parts, "model": model})


def parse_tokenizer(text: str) -> Tokenizer:
    """Returns the tokenizer of a `tokenizer.json`; raises ValueError with a one-line reason.

    Truncation and padding in the file are disabled, as in transformers by default.
    """
    try:
        tokenizer = Tokenizer.from_str(text)
        tokenizer.no_truncation()
        tokenizer.no_padding()
    except BaseException as error:
        raise ValueError(_reason(error)) from error
    return tokenizer


def encode(tokenizer: Tokenizer, text: str, vocab_size: int) -> list[int]:
    """Returns the token ids of a text; raises PromptError for a text or tokens that the model cannot take."""
    try:
        ids = list(tokenizer.encode(text, add_special_tokens=False).ids)
    except BaseException as error:
        reason = "it has a lone surrogate" if not _is_unicode(text) else _reason(error)
        raise PromptError(f"a text cannot be tokenized: {reason}") from error
    if beyond := [token for token in ids if token >= vocab_size]:
        raise PromptError(
            f"{tokenizer.id_to_token(beyond[0])!r} is token {beyond[0]}, but the model has {vocab_size} tokens",
            fix="leave it out of the messages",
        )
    return ids


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _reason(error: BaseException) -> str:
    """Returns the first line of a library's error; re-raises MemoryError and non-library exceptions."""
    if (not isinstance(error, Exception) and type(error).__name__ != "PanicException") or isinstance(
        error, MemoryError
    ):
        raise error
    return first_line(error)[:300]
