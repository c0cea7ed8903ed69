"""Reads the configuration files that families share, in the formats of transformers 4 and 5."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from qvl_runtime.manifest import MAX_STOP_TOKENS, Tokens

from ...checkpoint.directory import Checkpoint
from ...errors import ConfigError

Positive = Annotated[int, msgspec.Meta(gt=0, le=1 << 20)]
"""A size; the limit is above any published size and below what would exhaust memory before the weights are read."""
Depth = Annotated[int, msgspec.Meta(gt=0, le=1024)]
LARGEST = 1e12
"""Limit of RoPE factors and bases: far above any published one, far below float32's maximum."""
PositiveFloat = Annotated[float, msgspec.Meta(gt=0, le=LARGEST)]
Epsilon = Annotated[float, msgspec.Meta(gt=0, le=1)]
TokenId = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]
T = TypeVar("T")
IMAGE_TOKEN, VIDEO_TOKEN = 151655, 151656
"""Defaults of transformers in all families with this vocabulary."""


class RootConfig(msgspec.Struct):
    """Top-level ids of `config.json`."""

    image_token_id: TokenId | None = None
    video_token_id: TokenId | None = None


def convert(value: Any, kind: type[T], where: Path, part: str = "") -> T:
    """Converts `value` to `kind`; raises ConfigError with the file and the field."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        message = str(error)
        if part:
            message = message.replace("`$.", f"`{part}.") if "`$" in message else f"{message} - at `{part}`"
        raise ConfigError(message, where=where) from error


def refuse_unless(condition: bool, what: str, checkpoint: Checkpoint, fix: str = "") -> None:
    """Raises ConfigError about `config.json` unless `condition` holds."""
    if not condition:
        raise ConfigError(what, where=checkpoint.directory / "config.json", fix=fix)


def read_tokens(
    checkpoint: Checkpoint, vocab_size: int, image_token: int = IMAGE_TOKEN, video_token: int = VIDEO_TOKEN
) -> Tokens:
    """Reads the special token ids; missing ids are transformers' defaults if the vocabulary is large enough."""
    root = convert(checkpoint.config, RootConfig, checkpoint.directory / "config.json")
    image = _default(root.image_token_id, image_token, vocab_size)
    if image is None:
        raise ConfigError(
            "image_token_id is missing", where=checkpoint.directory / "config.json", fix="add the id of <|image_pad|>"
        )
    video = _default(root.video_token_id, video_token, vocab_size)
    return Tokens(image=image, video=video, stop=_stop_tokens(checkpoint))


def _default(stated: int | None, default: int, vocab_size: int) -> int | None:
    return default if stated is None and default < vocab_size else stated


def _stop_tokens(checkpoint: Checkpoint) -> list[int]:
    """The stop tokens of `generation_config.json`, else of `config.json`; null counts as missing."""
    nested = checkpoint.config.get("text_config")
    levels = checkpoint.json("generation_config.json"), checkpoint.config, nested
    stated = (level.get("eos_token_id") for level in levels if isinstance(level, dict))
    eos = next((value for value in stated if value is not None), None)
    stop: list[Any] = eos if isinstance(eos, list) else [eos]
    if not stop or not all(type(token) is int and 0 <= token < 1 << 31 for token in stop):
        shown = eos if eos is None or isinstance(eos, int | str) else f"a {type(eos).__name__}"
        raise ConfigError(f"eos_token_id is {shown!r}, which is not a stop token", where=checkpoint.directory)
    if len(stop) > MAX_STOP_TOKENS:
        raise ConfigError(
            f"eos_token_id has {len(stop):,} stop tokens",
            where=checkpoint.directory,
            fix=f"at most {MAX_STOP_TOKENS:,}",
        )
    return stop
