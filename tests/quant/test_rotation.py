"""A rotated model is the same function, in a basis without outlying channels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from qvl_export import ExportError, export
from qvl_export.checkpoint.directory import Checkpoint
from qvl_export.common.kl import divergence, log_softmax
from qvl_export.families import read_spec
from qvl_export.quant import rotation as rotate
from qvl_runtime.answers.generate import GenerationStats
from qvl_runtime.bundle import read_manifest
from qvl_runtime.model import Model, load
from qvl_runtime.rotation import Rotation
from tests.exporter.test_parity import MAX_ABS, a_video, one_image, only_text
from tests.heldout import HELDOUT, items
from tests.oracles import families
from tests.oracles.tiny import ATTENTION, FREE_SIZES, REFERENCE, SHAPES
from tests.plans import export_plan

pytestmark = pytest.mark.slow

GPTQ = Path(__file__).parent / "gptq" / "qwen2_vl_g32_sym"

DENSE = [family for family in ATTENTION if not families.find(family).experts]
"""Experts are left in their own basis, and linear attention is refused."""


def everywhere(model: Model, content: list[dict[str, Any]]) -> np.ndarray:
    """Logits of every prompt token, and of a cached step."""
    prompt = model.prompt([{"role": "user", "content": content}], reserve=1)
    logits = model.decoder.prefill(prompt, np.arange(len(prompt.ids)), GenerationStats())
    return np.concatenate([logits, model.decoder.step(7, prompt.next_position)[None]])


@pytest.mark.parametrize("family", DENSE)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_function_is_the_same(
    checkpoint: Callable[[str, str], Path],
    model: Callable[[str, str, str], Model],
    tmp_path: Path,
    family: str,
    shape: str,
) -> None:
    """Tied and not, with and without biases, head norms and DeepStack; features come out in the old basis."""
    export(export_plan(checkpoint(family, shape), tmp_path / "b", precision="fp32", rotate=True))
    plain, turned = model(family, shape, "fp32"), load(tmp_path / "b", threads=1)
    assert turned.manifest.llm.rotation_seed == rotate.SEED
    for content in (one_image(), only_text(), *([a_video()] if family in FREE_SIZES else [])):
        assert np.abs(everywhere(plain, content) - everywhere(turned, content)).max() < MAX_ABS["fp32"]
    page = next(items("ocr")).image
    assert np.abs(plain.encode(page) - turned.encode(page)).max() < 1e-4


def test_hidden_states_are_rotated(
    checkpoint: Callable[[str, str], Path], model: Callable[[str, str, str], Model], tmp_path: Path
) -> None:
    """Values between the graphs are in the new basis; otherwise the test above would prove nothing."""
    export(export_plan(checkpoint("qwen3_vl", "deep"), tmp_path / "b", precision="fp32", rotate=True))
    plain, turned = model("qwen3_vl", "deep", "fp32"), load(tmp_path / "b", threads=1)
    prompts = [each.prompt([{"role": "user", "content": one_image()}]).placed[0] for each in (plain, turned)]
    before, after = plain.image_features(prompts[0]), turned.image_features(prompts[1])
    assert np.abs(after - Rotation(before.shape[-1], rotate.SEED).apply(before)).max() < 1e-4
    assert np.abs(after - before).max() > 0.1


@pytest.mark.parametrize("shape", ["small", "deep"])
def test_tensors_can_be_read_in_pieces(checkpoint: Callable[[str, str], Path], shape: str) -> None:
    source = Checkpoint(checkpoint("qwen3_vl", shape))
    spec = read_spec(source)
    tensors = rotate.rotated(source.tensors, replace(spec, text=replace(spec.text, rotation_seed=3)))
    for tensor in tensors.values():
        whole = np.concatenate(list(tensor.chunks()))
        assert whole.size * whole.itemsize == tensor.nbytes
        assert np.allclose(whole, np.concatenate(list(tensor.chunks(64))), atol=1e-5)
    table = tensors["model.embed_tokens.weight"]
    rows = np.concatenate(list(table.chunks())).reshape(table.shape)
    assert np.allclose(table.rows([5, 2]), rows[[5, 2]], atol=1e-5)
    assert ("head_rotation.weight" in tensors) == spec.text.tied


def test_outlying_channels_are_removed(tmp_path: Path) -> None:
    """Three gains of 50: their columns of the weights that take them in are far larger than the others, turned not."""
    source = Checkpoint(REFERENCE)
    spec = read_spec(source)
    name = "model.layers.1.input_layernorm.weight"
    tensors = {key: value.astype(np.float32) for key, value in load_file(REFERENCE / "model.safetensors").items()}
    save_file({**tensors, name: np.where(np.arange(256) % 85 == 5, 50, tensors[name])}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((REFERENCE / "config.json").read_bytes())
    turned = rotate.rotated(Checkpoint(tmp_path).tensors, replace(spec, text=replace(spec.text, rotation_seed=0)))
    weight = np.concatenate(list(turned["model.layers.1.self_attn.q_proj.weight"].chunks())).reshape(256, 256)
    folded = np.concatenate(list(Checkpoint(tmp_path).tensors["model.layers.1.self_attn.q_proj.weight"].chunks()))
    folded = folded.reshape(256, 256) * np.concatenate(list(Checkpoint(tmp_path).tensors[name].chunks()))
    spread = [np.sqrt(np.square(each).max() / np.square(each).mean()) for each in (folded, weight)]
    assert spread[0] > 15
    assert spread[1] < 7


def test_a_quantized_checkpoint_cannot_be_rotated(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"already quantized.*--no-rotate"):
        export(export_plan(GPTQ, tmp_path / "b", rotate=True))
    assert not list(tmp_path.iterdir())


def test_a_rotated_model_is_calibrated(reference_bundle: Path, tmp_path: Path) -> None:
    """Through tables, stages and head: wrong bases anywhere would read nothing."""
    plan: dict[str, Any] = {"llm_precision": "int4", "calib": HELDOUT, "samples": 4}
    assert export(export_plan(REFERENCE, tmp_path / "b", **plan, rotate=True)).llm.rotation_seed == rotate.SEED
    entry = read_manifest(tmp_path / "b").graphs["llm"]
    assert entry.precision == "int4 in blocks of 128, int8 in blocks of 128, else fp16"
    item = list(items("ocr"))[100]
    one, other = (
        load(path, threads=1).logits(item.messages, item.answer) for path in (reference_bundle, tmp_path / "b")
    )
    p, q = log_softmax(one), log_softmax(other)
    assert float(divergence(p, q).mean()) < 0.03


def test_experts_are_refused(checkpoint: Callable[[str, str], Path], tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cannot be rotated"):
        export(export_plan(checkpoint("qwen3_vl_moe", "small"), tmp_path / "b", rotate=True))
