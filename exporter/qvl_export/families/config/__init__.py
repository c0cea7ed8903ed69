"""Reading the configuration files that the families share, in the forms of transformers 4 and 5."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from qvl_runtime.manifest import Tokens

from ...checkpoint import Checkpoint
from ...errors import ConfigError

Positive = Annotated[int, msgspec.Meta(gt=0, le=1 << 20)]
"""A size: above any published one, below what would exhaust memory before the weights are looked at."""
Depth = Annotated[int, msgspec.Meta(gt=0, le=1024)]
Finite = Annotated[float, msgspec.Meta(ge=-sys.float_info.max, le=sys.float_info.max)]
PositiveFloat = Annotated[float, msgspec.Meta(gt=0, le=sys.float_info.max)]
T = TypeVar("T")


class RootConfig(msgspec.Struct):
    """Top-level ids of `config.json`."""

    image_token_id: Annotated[int, msgspec.Meta(ge=0)]
    video_token_id: Annotated[int, msgspec.Meta(ge=0)]


def convert(value: Any, kind: type[T], where: Path, part: str = "") -> T:
    """`value` as `kind`; raises ConfigError naming the file and the field."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        message = str(error)
        if part:
            message = message.replace("`$.", f"`{part}.") if "`$" in message else f"{message} - at `{part}`"
        raise ConfigError(message, where=where) from error


def refuse_unless(condition: bool, what: str, checkpoint: Checkpoint, fix: str = "") -> None:
    """Raise ConfigError about `config.json` unless `condition` holds."""
    if not condition:
        raise ConfigError(what, where=checkpoint.directory / "config.json", fix=fix)


def read_tokens(checkpoint: Checkpoint) -> Tokens:
    """Special token ids; stop tokens come from the generation config, else from `config.json`."""
    where = checkpoint.directory / "config.json"
    root = convert(checkpoint.config, RootConfig, where)
    generation = checkpoint.json("generation_config.json") or {}
    nested = checkpoint.config.get("text_config") or {}
    eos = generation.get("eos_token_id", checkpoint.config.get("eos_token_id", nested.get("eos_token_id")))
    stop: list[Any] = eos if isinstance(eos, list) else [eos]
    if not stop or not all(type(token) is int and token >= 0 for token in stop):
        raise ConfigError(f"eos_token_id is {eos!r}: no stop token", where=checkpoint.directory)
    return Tokens(image=root.image_token_id, video=root.video_token_id, stop=stop)
