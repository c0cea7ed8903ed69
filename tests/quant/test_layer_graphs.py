"""Layers and vision stages as graphs of their own: in a row, they are the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from qvl_export.checkpoint.directory import Checkpoint
from qvl_export.families import read_spec, tensors
from qvl_export.graph.layer_graphs import decoder_stage, decoder_stages, vision_stage, vision_stages
from qvl_export.quant.calibration.layer_session import run
from qvl_export.quant.calibration.tower import Tower
from qvl_export.quant.calibration.work_dir import Sample, TowerResult
from qvl_export.quant.calibration_data.prompts import image_token_positions, llm_feeds
from qvl_export.targets import lower
from qvl_runtime.model import Model
from qvl_runtime.preprocess import patchify
from qvl_runtime.sessions.feeds import vision_feeds
from tests.exporter.test_parity import image, oracle_inputs
from tests.oracles.tiny import FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_on_their_own_are_the_layers_of_the_model(
    oracle: Callable[[str, str], PreTrainedModel],
    checkpoint: Callable[[str, str], Path],
    model: Callable[[str, str, str], Model],
    tmp_path: Path,
    family: str,
) -> None:
    """Hidden states after every layer, against transformers, on a prompt with an image."""
    source = Checkpoint(checkpoint(family, "deep"))
    whole, target = read_spec(source), lower("cpu", "fp32")
    spec = whole.text
    build = lambda name, formats: decoder_stage(spec, target, name, formats)  # noqa: E731
    stages = tuple(decoder_stages(spec))
    tower = Tower("llm", stages, build, target, tensors(source, whole), lambda _: None)
    content = [{"type": "image", "image": image(90, 140, 1)}, {"type": "text", "text": "Read the text."}]
    prompt = model(family, "deep", "fp32").prompt([{"role": "user", "content": content}])
    with torch.no_grad():
        theirs = oracle(family, "deep")(
            **oracle_inputs(model(family, "deep", "fp32"), prompt), output_hidden_states=True
        ).hidden_states
    features = model(family, "deep", "fp32").image_features(prompt.placed[0])
    state, feeds = theirs[0].numpy(), llm_feeds(model(family, "deep", "fp32").manifest, prompt, features[1:])
    for index, name in enumerate(stages[:-1]):  # transformers gives the last one normalized
        stage = build(name, {})
        session = tower.open(stage, TowerResult(), tmp_path)
        state = run(session, Sample(state, feeds), ["hidden_out"])[0]
        expected = theirs[index + 1].numpy()  # before DeepStack adds what the next layer sees
        if index < len(features) - 1:
            expected[0, image_token_positions(prompt)] += features[index + 1]
        assert np.abs(state - expected).max() < 1e-3
        sparse = spec.moe and index not in spec.moe.dense_layers and not spec.moe.shared_size
        attention = 2 if index in spec.recurrent_layers else 3
        assert sorted(len(names) for names in stage.taps.values()) == sorted(
            [1, attention, *([] if sparse else [1, 2])]
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_vision_stages_in_a_row_are_the_tower(
    checkpoint: Callable[[str, str], Path], model: Callable[[str, str, str], Model], tmp_path: Path, family: str
) -> None:
    source = Checkpoint(checkpoint(family, "deep"))
    spec, target = read_spec(source), lower("cpu", "fp32")
    stages = tuple(vision_stages(spec.vision))
    stored = tensors(source, spec)
    tower = Tower("vision", stages, lambda *a: vision_stage(spec, target, *a), target, stored, lambda _: None)
    picture = image(90, 140, 1)
    patches = patchify([picture], spec.image)
    state, feeds = patches.pixel_values, vision_feeds(spec.image, patches.grid)
    for name in stages:
        session = tower.open(tower.build(name, {}), TowerResult(), tmp_path)
        state = run(session, Sample(state, feeds), ["hidden_out"])[0]
    assert np.abs(state - model(family, "deep", "fp32").encode(picture)).max() < 1e-4
