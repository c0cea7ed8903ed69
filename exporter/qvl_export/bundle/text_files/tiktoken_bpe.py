"""Converts a tiktoken vocabulary to a `tokenizer.json`: byte-level BPE whose merges are recovered from the ranks.

Format: one line per token, its bytes in base64 and its rank (https://github.com/openai/tiktoken `load.py`). tiktoken
merges the neighbors whose union has the lowest rank. So a token is merged from the two pieces that remain of its bytes
after all merges of lower rank. A token of which more pieces remain can only be a whole word, which the tokenizer looks
up before it merges (`ignore_merges`), as tiktoken does.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from qvl_runtime.templates.byte_level import LETTERS

from ...errors import ConfigError

Ranks = Mapping[bytes, int]
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen's pattern that splits a text into words."""


def convert(text: str, special_tokens: Sequence[str], first_special: int, where: Path) -> str:
    """Returns the `tokenizer.json` of the file `text` and the special tokens, whose ids start at `first_special`.

    Raises ConfigError if the file is damaged or does not end where the special tokens begin.
    """
    ranks = _parse(text, where)
    if sorted(ranks.values()) != list(range(first_special)):
        raise ConfigError(
            f"has {len(ranks)} tokens, but the special tokens of config.json start at {first_special}", where=where
        )
    names = {token: "".join(LETTERS[byte] for byte in token) for token in ranks}
    merges = [(names[left], names[right]) for left, right in recovered_merges(ranks)]
    vocabulary = {names[token]: rank for token, rank in ranks.items()}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=True))
    tokenizer.normalizer = normalizers.NFC()
    words = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special_tokens])
    return str(tokenizer.to_str())


def _parse(text: str, where: Path) -> Ranks:
    try:
        pairs = [line.split() for line in text.splitlines() if line.strip()]
        ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in pairs}
    except (ValueError, binascii.Error) as error:
        raise ConfigError(f"is not a tiktoken vocabulary: {error}", where=where) from error
    if missing := [byte for byte in range(256) if bytes([byte]) not in ranks]:
        raise ConfigError(f"lacks {len(missing)} of the 256 bytes", where=where, fix="is the file complete?")
    return ranks


def recovered_merges(ranks: Ranks) -> list[tuple[bytes, bytes]]:
    """Returns the two pieces that each token is merged from, in the order of ranks."""
    longer = sorted((token for token in ranks if len(token) > 1), key=ranks.__getitem__)
    pieces = (_pieces(token, ranks) for token in longer)
    return [(pair[0], pair[1]) for pair in pieces if len(pair) == 2]


def _pieces(token: bytes, ranks: Ranks) -> list[bytes]:
    """Returns the pieces of a token's bytes after all merges of lower rank, lowest first and from the left."""
    parts, limit = [bytes([byte]) for byte in token], ranks[token]
    while True:
        unions = [ranks.get(left + right, limit) for left, right in pairwise(parts)]
        lowest = min(unions, default=limit)
        if lowest >= limit:
            return parts
        place = unions.index(lowest)
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
