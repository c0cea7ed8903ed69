"""Experts that are stored one by one are those that are stored together."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from qvl_export import CheckpointError, export
from qvl_export.checkpoint.directory import Checkpoint
from qvl_export.checkpoint.expert_stacks import MATRIX, with_stacks
from tests.exporter.test_checkpoint import data_hashes
from tests.plans import export_plan

FAMILY = "qwen3_5_moe"
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def single(checkpoint: Callable[[str, str], Path], tmp_path: Path) -> Path:
    """A checkpoint as transformers writes it, each matrix by itself."""
    return Path(shutil.copytree(checkpoint(FAMILY, "small"), tmp_path / "single"))


def together(tensors: Tensors) -> Tensors:
    """The tensors with the experts of each layer in two, as they are published."""
    found = {name: tensor for name, tensor in tensors.items() if not MATRIX.fullmatch(name)}
    layers = {match["layer"] for name in tensors if (match := MATRIX.fullmatch(name))}
    for layer in layers:
        count = sum(name.startswith(f"{layer}.") for name in tensors) // 3
        gate, up, down = (
            [tensors[f"{layer}.{expert}.{part}_proj.weight"] for expert in range(count)]
            for part in ("gate", "up", "down")
        )
        found[f"{layer}.gate_up_proj"] = torch.stack([torch.cat(pair) for pair in zip(gate, up, strict=True)])
        found[f"{layer}.down_proj"] = torch.stack(down)
    return found


def test_both_forms_give_the_same_bundle(single: Path, tmp_path: Path) -> None:
    expected, file = data_hashes(single, tmp_path / "a"), single / "model.safetensors"
    save_file(together(load_file(file)), file)
    assert data_hashes(single, tmp_path / "b") == expected


def test_stacks_are_read_expert_by_expert(single: Path) -> None:
    tensors = with_stacks(Checkpoint(single).tensors)
    stack = tensors["model.layers.0.mlp.experts.gate_up_proj"]
    expected = together(load_file(single / "model.safetensors"))
    wanted = next(value for name, value in expected.items() if name.endswith("layers.0.mlp.experts.gate_up_proj"))
    assert stack.shape == tuple(wanted.shape) and stack.nbytes == wanted.numel() * 4
    pieces = [*stack.chunks(64)]
    assert len(pieces) == stack.shape[0]
    assert np.array_equal(np.concatenate(pieces), wanted.numpy().reshape(-1))
    with pytest.raises(ValueError, match="is not a matrix"):
        stack.rows([0])


@pytest.mark.parametrize("damage", ["missing", "shape", "type"])
def test_incomplete_experts_are_named(single: Path, tmp_path: Path, damage: str) -> None:
    file = single / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("layers.1.mlp.experts.3.up_proj.weight"))
    tensor = tensors.pop(name)
    if damage != "missing":
        tensors[name] = tensor[:-1].clone() if damage == "shape" else tensor.to(torch.bfloat16)
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=r"2 tensors are missing: model\.layers\.1\.mlp\.experts\.down_proj"):
        export(export_plan(single, tmp_path / "bundle"))
