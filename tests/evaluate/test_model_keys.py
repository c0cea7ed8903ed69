"""Keys identify models by their content."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qvl_export.errors import ExportError
from qvl_export.evaluate.answers.model_keys import model_keys


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(bytes(8))
    return tmp_path


def test_the_key_of_a_checkpoint_follows_its_files(checkpoint: Path) -> None:
    before = model_keys(checkpoint, (), hf=True)
    assert model_keys(checkpoint, (), hf=True) == before
    os.utime(checkpoint / "model.safetensors", ns=(1, 1))
    assert model_keys(checkpoint, (), hf=True) != before


def test_a_bundle_has_the_key_of_its_manifest(reference_bundle: Path, int4_bundle: Path) -> None:
    keys = model_keys(reference_bundle, (reference_bundle, int4_bundle), hf=False)
    assert keys[0] == keys[1] != keys[2] and all(len(key) == 12 for key in keys)


def test_a_directory_without_a_configuration_is_not_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"is not a checkpoint directory \(--reference hf requires one\)"):
        model_keys(tmp_path, (), hf=True)
