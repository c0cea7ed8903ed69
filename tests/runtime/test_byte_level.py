"""The bytes of tokens are those of their text."""

from __future__ import annotations

import pytest
from transformers.convert_slow_tokenizer import bytes_to_unicode

from qvl_runtime.model import Model
from qvl_runtime.templates.byte_level import LETTERS, token_bytes


def test_the_letters_are_those_of_transformers() -> None:
    assert dict(enumerate(LETTERS)) == bytes_to_unicode()


@pytest.mark.parametrize("text", ["Total: 发票 12 😀\n", "é\t\x00ÿ", "<|im_end|><|box_start|>"])
def test_the_bytes_of_tokens_are_those_of_their_text(deep_model: Model, text: str) -> None:
    ids = deep_model.tokenizer.encode(text, add_special_tokens=False).ids
    assert b"".join(token_bytes(deep_model.tokenizer, each) for each in ids) == text.encode()
    assert token_bytes(deep_model.tokenizer, 10**6) == b""
