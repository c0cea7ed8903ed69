"""Reads the named and added tokens of a tokenizer's configuration files as transformers 5 does.

Source: `PreTrainedTokenizerBase._from_pretrained` and `special_tokens_map` of transformers 5. `tokenizer_config.json`
has `added_tokens_decoder`, by id; `special_tokens_map.json` and `added_tokens.json` are read only if it does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from ...checkpoint.directory import Checkpoint
from ...errors import ConfigError
from ...families.spec import ModelSpec

CONFIG, SPECIAL, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
STANDARD = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
DEFAULTS = dict.fromkeys(("eos_token", "unk_token", "pad_token"), "<|endoftext|>")
"""Defaults of transformers' Qwen2Tokenizer."""
QWEN2 = (None, "Qwen2Tokenizer", "Qwen2TokenizerFast")
_FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")


@dataclass(frozen=True)
class SpecialTokens:
    """`named` are variables of chat templates; `added` have an id in a file, `extra` do not."""

    named: Mapping[str, str]
    added: Mapping[int, AddedToken]
    extra: tuple[str, ...]
    where: Path


def read(checkpoint: Checkpoint, spec: ModelSpec) -> SpecialTokens:
    """Reads the special tokens of a checkpoint; raises ConfigError for malformed files."""
    config = checkpoint.json(CONFIG) or {}
    legacy = "added_tokens_decoder" not in config
    where = checkpoint.directory / (ADDED if legacy else CONFIG)
    said = {**config, **(checkpoint.json(SPECIAL) or {})} if legacy else config
    extra = said.get("extra_special_tokens") or said.get("additional_special_tokens") or []
    if not isinstance(extra, list | dict):
        raise ConfigError(
            f"extra special tokens must be a list, got {extra!r:.40}", where=checkpoint.directory / CONFIG
        )
    defaults = DEFAULTS if config.get("tokenizer_class") in QWEN2 and spec.tiktoken is None else {}
    named = {**defaults, **_named(said), **(_texts(extra) if isinstance(extra, dict) else {})}
    others = [] if isinstance(extra, dict) else [_content(token) for token in extra if _content(token)]
    kept = {name: token for name, token in sorted(named.items()) if token is not None}
    if legacy:
        added = _from_names(checkpoint, {*kept.values(), *others})
    else:
        added = _from_ids(config["added_tokens_decoder"], where)
    return SpecialTokens(kept, added, tuple(token for token in others if token), where)


def _named(config: Mapping[str, Any]) -> dict[str, str | None]:
    """Returns the standard tokens, including null ones, and all other entries `…_token` that are texts."""
    return {
        name: _content(value)
        for name, value in config.items()
        if name.endswith("_token") and ((name in STANDARD and value is None) or _content(value) is not None)
    }


def _texts(values: Mapping[str, Any]) -> dict[str, str | None]:
    return {name: _content(value) for name, value in values.items()}


def _content(token: Any) -> str | None:
    """Returns the text of a token that is a string or a saved AddedToken; None for anything else."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _from_ids(decoder: Any, where: Path) -> dict[int, AddedToken]:
    """Parses `added_tokens_decoder`: {"151643": {"content": "<|endoftext|>", "special": true, …}}."""
    try:
        return {
            int(number): AddedToken(token["content"], **{flag: token[flag] for flag in _FLAGS if flag in token})
            for number, token in decoder.items()
        }
    except (AttributeError, TypeError, KeyError, ValueError) as error:
        raise ConfigError(f"has a malformed added_tokens_decoder: {error!r}", where=where) from error


def _from_names(checkpoint: Checkpoint, special: set[str | None]) -> dict[int, AddedToken]:
    """Parses `added_tokens.json`: {"<|endoftext|>": 151643}."""
    found = {}
    for text, number in (checkpoint.json(ADDED) or {}).items():
        if type(number) is not int:
            raise ConfigError(f"token {text!r} has no id", where=checkpoint.directory / ADDED)
        found[number] = AddedToken(text, normalized=text not in special, special=text in special)
    return found
