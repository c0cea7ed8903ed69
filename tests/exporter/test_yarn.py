"""YaRN rope scaling: frequencies, attention factor, and the exported model against transformers'."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from transformers import PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from qvl_export import ExportPlan, export
from qvl_export.checkpoint.directory import Checkpoint
from qvl_export.families import read_spec
from qvl_export.graph.layers import inverse_frequencies
from qvl_runtime.answers.generate import GenerationStats
from qvl_runtime.model import load
from tests.exporter.test_parity import STEPS, assert_close, image, oracle_inputs
from tests.oracles import tiny

SCALINGS: dict[str, dict[str, Any]] = {
    "published": {"factor": 4.0, "original_max_position_embeddings": 32768},
    "short": {"factor": 8.0, "original_max_position_embeddings": 64},
    "attention factor": {"factor": 2.0, "original_max_position_embeddings": 512, "attention_factor": 1.7},
    "betas": {"factor": 16.0, "original_max_position_embeddings": 4096, "beta_fast": 8.0, "beta_slow": 2.0},
    "mscale": {"factor": 40.0, "original_max_position_embeddings": 4096, "mscale": 1.0, "mscale_all_dim": 0.5},
    "not truncated": {"factor": 4.0, "original_max_position_embeddings": 300, "truncate": False},
    "of the model's own length": {"factor": 4.0},
}


def scaled(model: PreTrainedModel, scaling: dict[str, Any]) -> PreTrainedModel:
    """The same weights under a configuration that asks for YaRN."""
    config = copy.deepcopy(model.config)
    config.text_config.rope_parameters = {**config.text_config.rope_parameters, "rope_type": "yarn", **scaling}
    other: PreTrainedModel = type(model)(config)
    other.load_state_dict(model.state_dict())
    return other.eval()


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "qwen3_5"])
@pytest.mark.parametrize("scaling", SCALINGS.values(), ids=SCALINGS)
def test_frequencies_are_those_of_transformers(
    oracle: Any, family: str, scaling: dict[str, Any], tmp_path: Path
) -> None:
    model = scaled(oracle(family, "wide"), scaling)
    text = read_spec(Checkpoint(tiny.save(model, tmp_path / "c"))).text
    theirs, factor = ROPE_INIT_FUNCTIONS["yarn"](model.config.text_config, torch.device("cpu"))
    assert text.yarn is not None
    assert text.yarn.attention_factor == pytest.approx(factor)
    ours = inverse_frequencies(text.rotated, text.rope_theta, text.yarn)
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=2e-6)
    assert (ours != inverse_frequencies(text.rotated, text.rope_theta)).any() or scaling["factor"] == 1


@pytest.mark.parametrize("family", tiny.FREE_SIZES)
def test_parity_beyond_the_trained_length(oracle: Any, family: str, tmp_path: Path) -> None:
    """A prompt of several times the 64 positions that the scaling starts from, then cached steps."""
    plain = oracle(family, "wide")
    theirs = scaled(plain, SCALINGS["short"])
    export(ExportPlan(tiny.save(theirs, tmp_path / "checkpoint"), tmp_path / "bundle", precision="fp32"))
    ours = load(tmp_path / "bundle", threads=1)
    words = {"type": "text", "text": "What is the total? " * 40}
    prompt = ours.prompt([{"role": "user", "content": [{"type": "image", "image": image(150, 90, 1)}, words]}], STEPS)
    assert prompt.next_position > 3 * 64
    inputs = oracle_inputs(ours, prompt)
    with torch.no_grad():
        expected, unscaled = (model(**inputs).logits[0].numpy() for model in (theirs, plain))
    assert np.abs(expected - unscaled).max() > 0.1, "the scaling does something"
    logits = ours.decoder.prefill(prompt, np.arange(len(prompt.ids)), GenerationStats())
    assert_close(logits, expected, "fp32")
    step = ours.decoder.step(int(expected[-1].argmax()), prompt.next_position)
    longer = prompt.followed_by(np.array([expected[-1].argmax()]))
    with torch.no_grad():
        assert_close(step[None], theirs(**oracle_inputs(ours, longer)).logits[0, -1:].numpy(), "fp32")


@pytest.mark.parametrize(
    ("family", "named"), [("qwen2_5_vl", "type"), ("qwen3_vl", "rope_type"), ("qwen3_5", "rope_type")]
)
def test_the_form_of_transformers_4(oracle: Any, family: str, named: str, tmp_path: Path) -> None:
    """As the documentation of each family writes it; the longest prompt is the scaled one."""
    directory = tiny.save(oracle(family, "wide"), tmp_path / "c")
    config = json.loads((directory / "config.json").read_text())
    rope = config["text_config"].pop("rope_parameters")
    theta, _ = rope.pop("rope_theta"), rope.pop("rope_type")
    yarn = {**rope, named: "yarn", "factor": 4, "original_max_position_embeddings": 4096}
    config["text_config"] |= {"rope_theta": theta, "rope_scaling": yarn}
    (directory / "config.json").write_bytes(msgspec.json.encode(config))
    spec = read_spec(Checkpoint(directory))
    assert spec.text.yarn is not None
    assert (spec.text.yarn.factor, spec.text.yarn.original_length, spec.max_positions) == (4, 4096, 16384)
