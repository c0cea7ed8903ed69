"""Safetensors files are written as the safetensors library reads them, in one file or in shards."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from qvl_export.checkpoint import safetensors_writer
from qvl_export.checkpoint.directory import Checkpoint
from tests.quant.test_gptq_writer import Whole


@pytest.mark.parametrize(("shard_bytes", "shards"), [(1 << 30, 1), (300, 3), (1, 5)])
def test_shards(tmp_path: Path, shard_bytes: int, shards: int) -> None:
    """Against safetensors' own reader; odd numbers of narrow elements must not push wide ones off their alignment."""
    rng = np.random.default_rng(0)
    tensors = {
        "a": rng.random(3).astype(np.float16),
        "b": rng.integers(-9, 9, (5, 7), dtype=np.int32),
        "c": rng.random((3, 5)).astype(np.float16),
        "d": rng.random((8, 9)).astype(np.float32),
        "e": rng.random(64).astype(np.float32),
    }
    counted: list[int] = []
    safetensors_writer.write(
        tmp_path, {name: Whole(value) for name, value in tensors.items()}, counted.append, shard_bytes
    )
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) == shards
    read = {name: value for file in files for name, value in load_file(file).items()}
    assert read.keys() == tensors.keys()
    assert all(np.array_equal(read[name], value) for name, value in tensors.items())
    assert sum(counted) == sum(value.nbytes for value in tensors.values())
    if shards > 1:
        index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == sum(counted)
        assert set(index["weight_map"]) == set(tensors)
    assert Checkpoint(tmp_path).tensors.keys() == tensors.keys()
