"""A checkpoint directory: its JSON and text files, and its tensors under their published names."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from ..common.portable_paths import is_plain
from ..errors import CheckpointError, ConfigError, shortened
from . import foreign_formats as foreign
from . import json_text
from .safetensors_reader import StoredTensor, read_header
from .tensor_names import published_name, without_wrappers

MAX_JSON_BYTES = 64 << 20
WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
TABLE, HEAD = "model.embed_tokens.weight", "lm_head.weight"


class Checkpoint:
    """The files of one checkpoint; tensors have their published (transformers 4) names.

    `notes` tells the user how the checkpoint was read.
    """

    def __init__(self, directory: Path) -> None:
        if not directory.is_dir():
            raise CheckpointError("no such checkpoint directory", where=directory)
        self.directory = directory
        self.notes: list[str] = []

    def json(self, name: str) -> dict[str, Any] | None:
        """Returns a JSON object of the checkpoint; None if the file does not exist."""
        path = self.directory / name
        if not path.is_file():
            return None
        return read_json(path)

    def text(self, name: str) -> str | None:
        """Returns a text file of the checkpoint without its byte order mark; None if it does not exist."""
        path = self.directory / name
        try:
            return path.read_bytes().decode("utf-8-sig") if path.is_file() else None
        except UnicodeDecodeError as error:
            raise ConfigError("is not UTF-8 text", where=path) from error

    @cached_property
    def config(self) -> dict[str, Any]:
        """`config.json`; raises ConfigError if it is missing."""
        config = self.json("config.json")
        if config is None:
            self._refuse_adapter()
            what, fix = foreign.why_no_config(path.name for path in self.directory.iterdir())
            raise ConfigError(f"is missing: {what}", where=self.directory / "config.json", fix=fix)
        return config

    @property
    def ties_embeddings(self) -> bool:
        """Whether `config.json` ties the head to the embedding table, at the top level or in `text_config`."""
        nested = self.config.get("text_config")
        levels = (self.config, nested if isinstance(nested, dict) else {})
        return any(level.get("tie_word_embeddings") is True for level in levels)

    def _refuse_adapter(self) -> None:
        """Raises CheckpointError for an adapter saved by peft, which lacks the weights that it changes."""
        if (adapter := self.json("adapter_config.json")) is not None:
            base = adapter.get("base_model_name_or_path") or "its base model"
            raise CheckpointError(
                "is a LoRA adapter without the weights it changes",
                where=self.directory,
                fix=f"merge it into {base} with peft's merge_and_unload, save_pretrained, and export that",
            )

    @cached_property
    def tensors(self) -> dict[str, StoredTensor]:
        """Every tensor by its published name; raises CheckpointError for damaged, missing or duplicate ones."""
        found: dict[str, StoredTensor] = {}
        for path in self.files:
            for tensor in read_header(path):
                name = published_name(tensor.name)
                if name in found:
                    raise CheckpointError(
                        f"tensor {tensor.name} is also in {found[name].file.name}", where=path, fix="remove one copy"
                    )
                found[name] = tensor
        self._check_index(found)
        foreign.refuse_mlx_names(found, self.directory)
        if wrapped := [tensor.name for tensor in found.values() if without_wrappers(tensor.name) != tensor.name]:
            self.notes.append(
                f"names of {len(wrapped)} tensors are read without a trainer's prefix: {abbreviate(wrapped, 1)}"
            )
        if HEAD in found and TABLE not in found and self.ties_embeddings:
            found[TABLE] = found.pop(HEAD)
        return found

    @cached_property
    def files(self) -> list[Path]:
        """The safetensors files; raises CheckpointError if one is missing."""
        for name in self.shards:
            if not (self.directory / name).is_file():
                self._refuse_adapter()
                what, fix = foreign.why_no_weights(path.name for path in self.directory.iterdir())
                raise CheckpointError(f"{name} is missing{what}", where=self.directory, fix=fix)
        return [self.directory / name for name in self.shards]

    @cached_property
    def shards(self) -> list[str]:
        """The names of the safetensors files, whether or not they exist."""
        names = [WHOLE] if self._weight_map is None else sorted(set(self._weight_map.values()))
        for name in names:
            if not is_plain(name):
                raise CheckpointError(f"shard name {name!r} leaves the checkpoint directory", where=self.directory)
        return names

    @cached_property
    def _weight_map(self) -> dict[str, str] | None:
        """The shard of each tensor; None if there is a single file, which transformers prefers too."""
        if (self.directory / WHOLE).is_file():
            if (self.directory / INDEX).is_file():
                self.notes.append(f"{WHOLE} is read, and {INDEX} beside it is not")
            return None
        index = self.json(INDEX)
        if index is None:
            return None
        weight_map = index.get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
            raise CheckpointError("has no weight_map", where=self.directory / INDEX)
        return weight_map

    def _check_index(self, found: dict[str, StoredTensor]) -> None:
        missing = [name for name in self._weight_map or {} if published_name(name) not in found]
        if missing:
            raise CheckpointError(
                f"{len(missing)} tensors of the index are in no shard: {abbreviate(missing)}", where=self.directory
            )


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object; raises ConfigError if it is too large, malformed or not an object."""
    if path.stat().st_size > MAX_JSON_BYTES:
        raise ConfigError(f"is larger than {MAX_JSON_BYTES} bytes", where=path)
    try:
        value = json_text.parse(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"is not JSON: {error}", where=path) from error
    if not isinstance(value, dict):
        raise ConfigError("is not a JSON object", where=path)
    return value


def abbreviate(names: list[str], shown: int = 4) -> str:
    """Returns the first names in sorted order, and how many more there are."""
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return shortened(", ".join(sorted(names)[:shown])) + rest
