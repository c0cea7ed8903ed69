"""Recommended generation settings: which are kept, which are reported as dropped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qvl_export.checkpoint.directory import Checkpoint
from qvl_export.checkpoint.generation_config import read
from qvl_runtime.manifest import GenerationDefaults


def found(directory: Path, **files: dict[str, Any]) -> tuple[GenerationDefaults, list[str]]:
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content))
    return read(Checkpoint(directory))


def test_known_settings_are_kept(tmp_path: Path) -> None:
    settings = {"do_sample": True, "temperature": 0.5, "top_k": 3, "repetition_penalty": None, "eos_token_id": [1]}
    assert found(tmp_path, generation_config=settings) == (
        GenerationDefaults(do_sample=True, temperature=0.5, top_k=3),
        [],
    )


@pytest.mark.parametrize(
    ("settings", "dropped"),
    [
        ({"num_beams": 1, "stop_strings": [], "use_cache": False, "_from_model_config": True, "output_scores": 1}, []),
        ({"num_beams": 4}, ["num_beams 4"]),
        ({"top_p": 1.5}, ["top_p 1.5"]),
        ({"temperature": "hot"}, ["temperature 'hot'"]),
        ({"of_tomorrow": "x" * 99}, ["of_tomorrow '" + "x" * 39]),
    ],
)
def test_others_are_named_unless_they_have_no_effect(
    settings: dict[str, Any], dropped: list[str], tmp_path: Path
) -> None:
    assert found(tmp_path, generation_config=settings) == (GenerationDefaults(), dropped)


def test_old_checkpoints_have_them_in_their_configuration(tmp_path: Path) -> None:
    config = {"temperature": 0.25, "num_beams": 2, "hidden_size": 9}
    assert found(tmp_path, config=config) == (GenerationDefaults(temperature=0.25), ["num_beams 2"])
    assert found(tmp_path, config=config, generation_config={}) == (GenerationDefaults(), [])
