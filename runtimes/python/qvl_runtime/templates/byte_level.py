"""The letters that byte-level vocabularies write for bytes, and the bytes that a token stands for."""

from __future__ import annotations

from tokenizers import Tokenizer


def _letters() -> list[str]:
    """Returns the letter of each byte: printable Latin-1 is itself, others follow from U+0100 on (GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (byte for byte in range(256) if byte not in printable)
    names = {byte: chr(byte) for byte in printable} | {byte: chr(256 + place) for place, byte in enumerate(others)}
    return [names[byte] for byte in range(256)]


LETTERS = _letters()
_BYTES = {letter: byte for byte, letter in enumerate(LETTERS)}


def token_bytes(tokenizer: Tokenizer, token: int) -> bytes:
    """Returns the bytes that a token stands for, which need not be whole characters; none for an unused id."""
    text = tokenizer.id_to_token(token) or ""
    if all(letter in _BYTES for letter in text):
        return bytes(_BYTES[letter] for letter in text)
    return text.encode()  # an added token
