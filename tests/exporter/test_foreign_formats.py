"""Checkpoints of other tools are recognized by their files, and the error says what to export instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from qvl_export.checkpoint import foreign_formats
from qvl_export.errors import CheckpointError, ConfigError


@pytest.mark.parametrize(
    ("files", "what", "fix"),
    [
        (["pytorch_model-00001-of-00002.bin"], "pickled weights", "safe_serialization=True"),
        (["model-q4.gguf"], "GGUF files", "the safetensors release"),
        (["zero_to_fp32.py"], "the state of a training", "save_pretrained"),
        (["__0_0.distcp"], "the state of a training", "save_pretrained"),
        (["model-00001-of-00002.safetensors"], "model.safetensors.index.json", "download the index"),
        (["README.md"], "", "download all shards"),
    ],
)
def test_files_instead_of_weights(files: list[str], what: str, fix: str) -> None:
    found, advice = foreign_formats.why_no_weights(files)
    assert what in found and bool(found) == bool(what) and fix in advice


def test_directories_without_a_configuration() -> None:
    assert foreign_formats.why_no_config(["bundle.json"])[0] == "this is a bundle, not a checkpoint"
    assert "llama.cpp" in foreign_formats.why_no_config(["model-q4.gguf"])[0]
    assert foreign_formats.why_no_config([]) == ("not a checkpoint directory", "")


def test_conversions_to_mlx_are_refused() -> None:
    here = Path("checkpoint")
    with pytest.raises(ConfigError, match="quantized by MLX"):
        foreign_formats.refuse_mlx_config({"quantization": {"bits": 4}}, here)
    with pytest.raises(CheckpointError, match="conversion for MLX"):
        foreign_formats.refuse_mlx_names(["model.norm.weight", "vision_tower.blocks.0.weight"], here)
    foreign_formats.refuse_mlx_config({"quantization": None, "quantization_config": {}}, here)
    foreign_formats.refuse_mlx_names(["visual.blocks.0.weight"], here)
