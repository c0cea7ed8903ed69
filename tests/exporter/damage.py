"""Ways to break the copy of a checkpoint or of a bundle in a directory: each returns a function of that directory."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

Damage = Callable[[Path], object]
Header = dict[str, Any]
SHARD, CONFIG, INDEX = "model.safetensors", "config.json", "model.safetensors.index.json"
NORM, MLP, PROJECTION = "model.norm.weight", "model.layers.0.mlp.down_proj.weight", "model.layers.0.mlp.up_proj.weight"
REMOVE = object()


def nothing(_: Path) -> None:
    """Leave it whole: the arguments are wrong."""


def together(*damages: Damage) -> Damage:
    """One after the other."""
    return lambda here: [damage(here) for damage in damages]


# Files


def delete(name: str) -> Damage:
    return lambda here: (here / name).unlink()


def rename(name: str, to: str) -> Damage:
    return lambda here: (here / name).rename(here / to)


def write(name: str, content: bytes | str) -> Damage:
    return lambda here: _write(here / name, content.encode() if isinstance(content, str) else content)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def truncate(name: str, keep: float = 0.5) -> Damage:
    def damage(here: Path) -> None:
        content = (here / name).read_bytes()
        (here / name).write_bytes(content[: int(len(content) * keep)])

    return damage


def garbage(name: str) -> Damage:
    """As many bytes as before, none of them right."""
    return lambda here: (here / name).write_bytes(
        b"\xff\xfe\x00garbage"[:9].ljust((here / name).stat().st_size, b"\xa5")
    )


def append(name: str, content: bytes) -> Damage:
    return lambda here: (here / name).write_bytes((here / name).read_bytes() + content)


def link_out(name: str) -> Damage:
    """Replace a file by a link to a copy of it two directories up."""

    def damage(here: Path) -> None:
        outside = here.parent / f"outside-{name}"
        shutil.move(here / name, outside)
        (here / name).symlink_to(outside)

    return damage


def edit(name: str, **changes: Any) -> Damage:
    """Set values of a JSON file; `a__b` is the key b of the object a, REMOVE deletes."""

    def damage(here: Path) -> None:
        content = json.loads((here / name).read_bytes())
        for key, value in changes.items():
            *parents, last = key.split("__")
            place = content
            for parent in parents:
                place = place.setdefault(parent, {})
            place.pop(last) if value is REMOVE else place.update({last: value})
        (here / name).write_text(json.dumps(content))

    return damage


def config(**changes: Any) -> Damage:
    return edit(CONFIG, **changes)


def text(**changes: Any) -> Damage:
    """Values of the language model's part of config.json."""
    return config(**{f"text_config__{key}": value for key, value in changes.items()})


# Safetensors


def header(change: Callable[[Header], object]) -> Damage:
    """Change the header of the shard and leave the data as it is."""

    def damage(here: Path) -> None:
        raw = (here / SHARD).read_bytes()
        (length,) = struct.unpack("<Q", raw[:8])
        entries = json.loads(raw[8 : 8 + length])
        change(entries)
        encoded = json.dumps(entries).encode()
        (here / SHARD).write_bytes(struct.pack("<Q", len(encoded)) + encoded + raw[8 + length :])

    return damage


def raw_header(encoded: bytes, length: int | None = None) -> Damage:
    """A shard that starts with this header, which states a length of `length` bytes."""
    prefix = struct.pack("<Q", len(encoded) if length is None else length)
    return lambda here: (here / SHARD).write_bytes(prefix + encoded + bytes(64))


def entry(name: str, **values: Any) -> Damage:
    return header(lambda entries: entries[name].update(values))


def offsets(name: str, shift: Callable[[int, int], tuple[int, int]]) -> Damage:
    return header(lambda entries: entries[name].update(data_offsets=shift(*entries[name]["data_offsets"])))


def overlap(entries: Header) -> None:
    """Two tensors of one size at one offset."""
    entries[PROJECTION]["data_offsets"] = entries[MLP]["data_offsets"]


def twice(name: str) -> Damage:
    """A tensor whose entry comes twice, as JSON allows."""

    def damage(here: Path) -> None:
        raw = (here / SHARD).read_bytes()
        (length,) = struct.unpack("<Q", raw[:8])
        encoded = raw[8 : 8 + length].strip()
        first = json.dumps({name: json.loads(encoded)[name]}).encode()
        encoded = first[:-1] + b"," + encoded[1:]
        (here / SHARD).write_bytes(struct.pack("<Q", len(encoded)) + encoded + raw[8 + length :])

    return damage


def swap_shapes(entries: Header) -> None:
    first, second = entries[MLP], entries["visual.blocks.0.attn.qkv.weight"]
    first["shape"], second["shape"] = second["shape"], first["shape"]


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    """Change the tensors of the shard and write it anew."""

    def damage(here: Path) -> None:
        values = load_file(here / SHARD)
        change(values)
        save_file(values, here / SHARD)

    return damage


def stored(name: str, dtype: torch.dtype) -> Damage:
    """A tensor as another element type."""
    return tensors(lambda values: values.update({name: values[name].to(dtype)}))


def spoil(value: float, dtype: torch.dtype) -> Damage:
    """All weights as `dtype`, one element of the last layer's MLP being `value`."""

    def change(values: dict[str, torch.Tensor]) -> None:
        values.update({name: tensor.to(dtype) for name, tensor in values.items()})
        values[MLP][3, 5] = value

    return tensors(change)


def second_shard(here: Path) -> None:
    """A tensor that is also in another shard, under the name of transformers 5."""
    save_file({"model.language_model.norm.weight": torch.ones(64)}, here / "model-2.safetensors")
    weight_map = dict.fromkeys(load_file(here / SHARD), "model-1.safetensors")
    weight_map["model.language_model.norm.weight"] = "model-2.safetensors"
    index(json.dumps({"weight_map": weight_map}))(here)


def index(content: str) -> Damage:
    """A shard instead of the whole file, and an index."""

    def damage(here: Path) -> None:
        (here / SHARD).rename(here / "model-1.safetensors")
        (here / INDEX).write_text(content)

    return damage


def adapter(here: Path) -> None:
    """What peft saves: no config.json, only the adapter."""
    (here / CONFIG).unlink()
    (here / SHARD).unlink()
    (here / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "acme/base"}))
    save_file({"base_model.model.lora_A.weight": torch.ones(4, 4)}, here / "adapter_model.safetensors")


# Bundles


def onnx_data(name: str, **values: str) -> Damage:
    """Point the first weight of a graph elsewhere, with size and hash in the manifest put right."""

    def damage(here: Path) -> None:
        model = onnx.load(here / f"{name}.onnx", load_external_data=False)
        weight = next(tensor for tensor in model.graph.initializer if tensor.external_data)
        for item in weight.external_data:
            item.value = values.get(item.key, item.value)
        onnx.save(model, here / f"{name}.onnx")
        relist(f"{name}.onnx")(here)

    return damage


def relist(name: str) -> Damage:
    """Size and hash of a file as they now are."""

    def damage(here: Path) -> None:
        manifest = json.loads((here / "bundle.json").read_bytes())
        content = (here / name).read_bytes()
        manifest["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        (here / "bundle.json").write_text(json.dumps(manifest))

    return damage


def listed(name: str) -> Damage:
    """The manifest names one more file."""

    def damage(here: Path) -> None:
        manifest = json.loads((here / "bundle.json").read_bytes())
        manifest["files"][name] = {"size": 1, "sha256": "0" * 64}
        (here / "bundle.json").write_text(json.dumps(manifest))

    return damage


# Media, beside the bundle


def image(width: int, height: int, name: str = "page.png") -> Damage:
    pixels = np.full((height, width, 3), 255, np.uint8)
    return lambda here: Image.fromarray(pixels).save(here.parent / name)


def png_claiming(width: int, height: int) -> Damage:
    """A PNG of a few bytes whose header promises many pixels."""
    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = (
        b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", size) + _chunk(b"IDAT", zlib.compress(b"\0")) + _chunk(b"IEND", b"")
    )
    return write("../page.png", content)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
