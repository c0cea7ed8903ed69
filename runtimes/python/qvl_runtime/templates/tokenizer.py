"""Tokenizers, parsed and used so that none of its failures is worse than an error of one line."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from tokenizers import Tokenizer

from ..errors import PromptError


class _Pipeline(msgspec.Struct):
    """What a tokenizer does before and after it looks words up, without its vocabulary."""

    added_tokens: list[dict[str, Any]] = []
    normalizer: Any = None
    pre_tokenizer: Any = None
    post_processor: Any = None
    decoder: Any = None


def pipeline(text: str) -> str:
    """A `tokenizer.json` with a vocabulary of the 256 bytes only, whatever its model is; raises ValueError."""
    try:
        parts: dict[str, Any] = msgspec.to_builtins(msgspec.json.decode(text.encode(), type=_Pipeline))
    except (msgspec.MsgspecError, RecursionError, UnicodeEncodeError) as error:
        raise ValueError(str(error)) from error
    letters = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x144)]  # those of byte-level vocabularies
    model = {"type": "BPE", "vocab": {chr(letter): place for place, letter in enumerate(letters)}, "merges": []}
    return json.dumps({"version": "1.0", "truncation": None, "padding": None, **parts, "model": model})


def parse_tokenizer(text: str) -> Tokenizer:
    """The tokenizer of a `tokenizer.json`; raises ValueError with a reason of one line.

    Truncation and padding that a file asks for are left out, as transformers does unless it is asked for them.
    """
    try:
        tokenizer = Tokenizer.from_str(text)
        tokenizer.no_truncation()
        tokenizer.no_padding()
    except BaseException as error:
        raise ValueError(_reason(error)) from error
    return tokenizer


def encode(tokenizer: Tokenizer, text: str, vocab_size: int) -> list[int]:
    """The ids of a text; raises PromptError for a text or tokens that the model cannot take."""
    try:
        ids = list(tokenizer.encode(text, add_special_tokens=False).ids)
    except BaseException as error:
        reason = "it has half of a surrogate pair" if not _is_unicode(text) else _reason(error)
        raise PromptError(f"a text cannot be tokenized: {reason}") from error
    if beyond := [token for token in ids if token >= vocab_size]:
        raise PromptError(
            f"{tokenizer.id_to_token(beyond[0])!r} is token {beyond[0]}, beyond the model's table of {vocab_size}",
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
    """The first line of what went wrong; what no library has raised goes through."""
    if (not isinstance(error, Exception) and type(error).__name__ != "PanicException") or isinstance(
        error, MemoryError
    ):
        raise error
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
