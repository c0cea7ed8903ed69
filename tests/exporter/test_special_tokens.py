"""Special and added tokens are those that transformers reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from qvl_export.errors import ConfigError
from tests.exporter.text_files import (
    AS_OBJECT,
    IM_END,
    IM_START,
    IMAGE,
    QWEN2,
    TEXT,
    WHOLE,
    by_id,
    ids,
    put,
    read,
)
from tests.runtime.templates import QWEN2_5_VL

CONFIGS = {
    "nothing": {},
    "class alone": QWEN2,
    "null tokens": {**QWEN2, "eos_token": None, "unk_token": None, "pad_token": "<|vision_pad|>"},
    "another class": {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": IM_END, "bos_token": None},
    "named beside the standard ones": {"tokenizer_class": "TokenizersBackend", "image_token": IMAGE},
    "a mapping of extra ones": {**QWEN2, "extra_special_tokens": {"image_token": IMAGE}},
    "objects": {**QWEN2, "eos_token": {**AS_OBJECT, "__type": "AddedToken"}},
    "a list of extra ones": {**QWEN2, "additional_special_tokens": [IM_START, "<|new|>"]},
    "a new list": {**QWEN2, "extra_special_tokens": ["<|x|>"]},
    "one that is nowhere else": {**QWEN2, "eos_token": "<|x|>"},
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("special", [None, {"eos_token": AS_OBJECT, "cls_token": "<|box_start|>"}], ids=["", "map"])
@pytest.mark.parametrize("listed", [False, True], ids=["", "decoder"])
def test_special_tokens_are_those_of_transformers(here: Path, config: Any, special: Any, listed: bool) -> None:
    listing = {"added_tokens_decoder": by_id(WHOLE["added_tokens"])} if listed else {}
    put(here, tokenizer_config__json={**config, **listing}, chat_template__jinja=QWEN2_5_VL)
    if special:
        put(here, special_tokens_map__json=special)
    theirs, ours = AutoTokenizer.from_pretrained(here), read(here)
    assert ours.special_tokens == theirs.special_tokens_map
    plain = TEXT.replace("e\u0301", "e")  # the reference tokenizer does not normalize, Qwen2Tokenizer does
    assert ids(ours, plain) == theirs.encode(plain, add_special_tokens=False)


MORE = [{**AS_OBJECT, "content": "<|new|>", "special": True, "id": 365}]
MORE += [{**AS_OBJECT, "content": "<|x|>", "special": False, "normalized": True, "id": 366}]


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config__json": {**QWEN2, "added_tokens_decoder": by_id([*WHOLE["added_tokens"], *MORE])}},
        {"tokenizer_config__json": QWEN2, "added_tokens__json": {"<|new|>": 365, "<|x|>": 366}},
    ],
    ids=["added_tokens_decoder", "added_tokens.json"],
)
def test_tokens_that_only_other_files_have(here: Path, files: dict[str, Any]) -> None:
    put(here, chat_template__jinja=QWEN2_5_VL, **files)
    theirs, ours = AutoTokenizer.from_pretrained(here), read(here)
    text = f"a<|new|> b <|x|>c{IM_END}"
    assert ids(ours, text) == theirs.encode(text, add_special_tokens=False)
    assert {365, 366} <= set(ids(ours, text))


def test_vision_tokens_that_only_the_configuration_has(here: Path) -> None:
    """As trainers leave them that write `tokenizer.json` before they add tokens."""
    put(here, tokenizer__json={**WHOLE, "added_tokens": WHOLE["added_tokens"][:5]}, chat_template__jinja=QWEN2_5_VL)
    put(here, tokenizer_config__json={**QWEN2, "added_tokens_decoder": by_id(WHOLE["added_tokens"])})
    theirs, ours = AutoTokenizer.from_pretrained(here), read(here)
    assert ids(ours, f"a{IMAGE}b") == theirs.encode(f"a{IMAGE}b", add_special_tokens=False)
    assert ids(ours, IMAGE) == [363]


def test_tokens_that_would_get_other_ids(here: Path) -> None:
    put(here, tokenizer_config__json=QWEN2, added_tokens__json={"<|new|>": 370}, chat_template__jinja=QWEN2_5_VL)
    refused = r"added_tokens\.json: token '<\|new\|>' has id 370, but the tokenizer makes it 365 \(.*save_pretrained"
    with pytest.raises(ConfigError, match=refused):
        read(here)


@pytest.mark.parametrize("decoder", [3, {"a": {"content": "x"}}, {"365": "x"}, {"365": {"lstrip": True}}])
def test_malformed_added_tokens(here: Path, decoder: Any) -> None:
    put(here, tokenizer_config__json={"added_tokens_decoder": decoder}, chat_template__jinja=QWEN2_5_VL)
    with pytest.raises(ConfigError, match=r"tokenizer_config\.json: has a malformed added_tokens_decoder"):
        read(here)
    put(here, tokenizer_config__json={}, added_tokens__json={"x": "y"})
    with pytest.raises(ConfigError, match=r"added_tokens\.json: token 'x' has no id"):
        read(here)


@pytest.mark.parametrize("extra", [3, True, "<|new|>"])
@pytest.mark.parametrize("name", ["extra_special_tokens", "additional_special_tokens"])
def test_malformed_special_tokens(here: Path, name: str, extra: Any) -> None:
    put(here, tokenizer_config__json={name: extra}, chat_template__jinja=QWEN2_5_VL)
    with pytest.raises(ConfigError, match=r"tokenizer_config\.json: extra special tokens must be a list, got "):
        read(here)


def test_qwen_vl_has_no_named_tokens(checkpoint: Any) -> None:
    assert read(checkpoint("qwen", "small")).special_tokens == {}
