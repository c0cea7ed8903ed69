"""Small random changes of a checkpoint's configuration, index and safetensors headers."""

from __future__ import annotations

import json
import math
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Place = tuple[Any, Any]
VALUES: list[Any] = [
    *(None, True, 0, -1, 1, 3, 10**30, 1 << 31, 1 << 62, 10**400, 0.5, 14.0, 1e308, 1e-320, math.nan, math.inf),
    *(
        "",
        "x",
        "64",
        "a\nb",
        "\x1b[31m",
        "\ud800",
        "../x",
        "x" * 10**5,
        [],
        [1],
        [[]],
        [None],
        [0] * 10**5,
        {},
        {"a": 1},
    ),
]
TYPES = ("I64", "BOOL", "F64", "I32", "U8", "F8_E4M3", "F4", "F16", "BF16", "F32", None, 5)
NAMES = ("a\nb", "\ud800", "", "visual", "lm_head.weight", "score.weight", "model.layers.999999999.x", "x" * 5000)


def places(value: Any) -> Iterator[Place]:
    """Every container within a JSON value, with each of its keys."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(min(6, len(value))):
            yield value, key
            yield from places(value[key])


def change_json(path: Path, rng: random.Random) -> None:
    """Replace, remove or rename one to three values."""
    content = json.loads(path.read_text())
    for _ in range(rng.choice((1, 1, 2, 3))):
        found = list(places(content))
        if not found:
            break
        parent, key = rng.choice(found)
        if rng.random() < 0.15:
            del parent[key]
        elif rng.random() < 0.1 and isinstance(parent, dict):
            parent[f"{key}\n"] = parent.pop(key)
        else:
            parent[key] = changed(parent[key], rng)
    path.write_text(json.dumps(content))


def changed(old: Any, rng: random.Random) -> Any:
    """Another value, or a number near the old one."""
    if type(old) is int and rng.random() < 0.4:
        return rng.choice((old * 2, old + 1, old - 1, -old, old * 10**6))
    return rng.choice(VALUES)


def change_header(path: Path, rng: random.Random) -> None:
    """Damage the header of a shard, as JSON or byte by byte; the data stay."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = raw[8 : 8 + length]
    header = change_entry(header, rng) if rng.random() < 0.6 else change_bytes(header, rng)
    claimed = len(header) if rng.random() > 0.05 else rng.choice((0, 1, 1 << 63, len(header) - 1))
    path.write_bytes(struct.pack("<Q", claimed) + header + raw[8 + length :])


def change_entry(header: bytes, rng: random.Random) -> bytes:
    entries = json.loads(header)
    name = rng.choice([name for name in entries if name != "__metadata__"])
    entry, kind = entries[name], rng.randrange(5)
    if kind == 0:
        del entries[name]
    elif kind == 1:
        entries[rng.choice((*NAMES, f"{name}.qweight", name.replace("weight", "bias")))] = entries.pop(name)
    elif kind == 2:
        shape = entry["shape"]
        entry["shape"] = rng.choice((shape[::-1], [1, *shape], [], [0], [1 << 62, 1 << 62, 0], [-1], [10**30], None))
    elif kind == 3:
        entry["dtype"] = rng.choice(TYPES)
    else:
        entries[name] = rng.choice(VALUES)
    return json.dumps(entries).encode()


def change_bytes(content: bytes, rng: random.Random) -> bytes:
    spoiled = bytearray(content)
    for _ in range(rng.choice((1, 2, 5))):
        spoiled[rng.randrange(len(spoiled))] = rng.randrange(256)
    return bytes(spoiled)


def mutate(checkpoint: Path, rng: random.Random) -> str:
    """Change one file, and say which."""
    files = [path for name in ("*config.json", "*.index.json", "*.safetensors") for path in checkpoint.glob(name)]
    chosen = rng.choice(sorted(path for path in files if path.name != "tokenizer_config.json"))
    if chosen.suffix == ".safetensors":
        change_header(chosen, rng)
    elif rng.random() < 0.1:
        chosen.write_bytes(change_bytes(chosen.read_bytes(), rng))
    else:
        change_json(chosen, rng)
    return chosen.name
