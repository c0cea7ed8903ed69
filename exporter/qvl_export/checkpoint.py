"""A checkpoint directory: its JSON and text files, and its tensors under their published names."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from .errors import CheckpointError, ConfigError
from .paths import is_plain
from .safetensors_file import StoredTensor, read_header

MAX_JSON_BYTES = 64 << 20
PICKLED = (
    "convert them in transformers: from_pretrained(…), for Qwen-VL with trust_remote_code=True, then "
    "save_pretrained(…, safe_serialization=True)"
)


class Checkpoint:
    """The files of one checkpoint; tensors are found under their published (transformers 4) names."""

    def __init__(self, directory: Path) -> None:
        if not directory.is_dir():
            raise CheckpointError("no such checkpoint directory", where=directory)
        self.directory = directory

    def json(self, name: str) -> dict[str, Any] | None:
        """A JSON object of the checkpoint, None where the file does not exist."""
        path = self.directory / name
        if not path.is_file():
            return None
        return read_json(path)

    def text(self, name: str) -> str | None:
        """A text file of the checkpoint, None where it does not exist."""
        path = self.directory / name
        try:
            return path.read_bytes().decode("utf-8") if path.is_file() else None
        except UnicodeDecodeError as error:
            raise ConfigError("is not UTF-8 text", where=path) from error

    @cached_property
    def config(self) -> dict[str, Any]:
        """`config.json`; raises ConfigError when it is missing."""
        config = self.json("config.json")
        if config is None:
            self._refuse_adapter()
            raise ConfigError("is missing: not a checkpoint directory", where=self.directory / "config.json")
        return config

    def _refuse_adapter(self) -> None:
        """Raise CheckpointError for what peft saves: an adapter without the weights that it changes."""
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
        for path in self._shards():
            for tensor in read_header(path):
                name = published_name(tensor.name)
                if name in found:
                    raise CheckpointError(
                        f"tensor {tensor.name} is also in {found[name].file.name}", where=path, fix="remove one copy"
                    )
                found[name] = tensor
        self._check_index(found)
        return found

    @property
    def files(self) -> list[Path]:
        """The safetensors files."""
        return self._shards()

    def _index(self) -> dict[str, Any] | None:
        index = self.json("model.safetensors.index.json")
        if index is None:
            return None
        weight_map = index.get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
            raise CheckpointError("has no weight_map", where=self.directory / "model.safetensors.index.json")
        return weight_map

    def _shards(self) -> list[Path]:
        weight_map = self._index()
        names = ["model.safetensors"] if weight_map is None else sorted(set(weight_map.values()))
        for name in names:
            if not is_plain(name):
                raise CheckpointError(f"shard name {name!r} leaves the checkpoint directory", where=self.directory)
            if not (self.directory / name).is_file():
                self._refuse_adapter()
                pickled = any(self.directory.glob("pytorch_model*.bin*"))
                raise CheckpointError(
                    f"{name} is missing" + (": there are only pickled weights (.bin)" if pickled else ""),
                    where=self.directory,
                    fix=PICKLED if pickled else "checkpoints must be safetensors; download all shards",
                )
        return [self.directory / name for name in names]

    def _check_index(self, found: dict[str, StoredTensor]) -> None:
        missing = [name for name in self._index() or {} if published_name(name) not in found]
        if missing:
            raise CheckpointError(
                f"{len(missing)} tensors of the index are in no shard: {few(missing)}", where=self.directory
            )


def published_name(name: str) -> str:
    """The name as the hub publishes it: transformers 5 nests `model.visual` and `model.language_model`."""
    if name.startswith("model.visual."):
        return name.removeprefix("model.")
    return name.replace("model.language_model.", "model.", 1) if name.startswith("model.language_model.") else name


def nested_name(published: str) -> str:
    """The name as transformers 5 writes it: what `published_name` undoes."""
    if published.startswith("visual."):
        return f"model.{published}"
    return f"model.language_model.{published.removeprefix('model.')}" if published.startswith("model.") else published


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; raises ConfigError when it is too large, malformed or not an object."""
    if path.stat().st_size > MAX_JSON_BYTES:
        raise ConfigError(f"is larger than {MAX_JSON_BYTES} bytes", where=path)
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"is not JSON: {error}", where=path) from error
    if not isinstance(value, dict):
        raise ConfigError("is not a JSON object", where=path)
    return value


def few(names: list[str], shown: int = 4) -> str:
    """The first names of a list, and how many more there are."""
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(sorted(names)[:shown]) + rest
