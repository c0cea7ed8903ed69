"""Qwen3-VL: published configurations, what is refused, DeepStack that matters, and int4 calibrated with it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from qvl_export import ConfigError, export
from qvl_export.checkpoint.directory import Checkpoint
from qvl_export.common.labels import read_labels
from qvl_export.families import read_spec
from qvl_export.quant.calibration import layerwise as calibrate
from qvl_export.quant.calibration.work_dir import Sample
from qvl_runtime import BundleError, load
from qvl_runtime.answers.generate import GenerationStats
from qvl_runtime.bundle import read_manifest
from qvl_runtime.manifest import SCHEMA_VERSION, Manifest
from qvl_runtime.model import Model
from tests.conftest import Loader
from tests.exporter import damage as d
from tests.exporter.test_parity import cosine, three_images
from tests.heldout import HELDOUT
from tests.plans import export_plan

CONFIGS = Path(__file__).parents[1] / "configs"
PREPROCESSOR = {
    "size": {"longest_edge": 16777216, "shortest_edge": 65536},
    "patch_size": 16,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
"""As the hub has it."""
PUBLISHED = {
    "qwen3-vl-2b": ((2048, 6144, 28, 16, 8), (24, 1024, 4096), (5, 11, 17)),
    "qwen3-vl-4b": ((2560, 9728, 36, 32, 8), (24, 1024, 4096), (5, 11, 17)),
    "qwen3-vl-8b": ((4096, 12288, 36, 32, 8), (27, 1152, 4304), (8, 16, 24)),
}


def described(directory: Path, name: str, **vision: Any) -> Checkpoint:
    """A checkpoint of a published configuration, with hardly a weight."""
    config = json.loads((CONFIGS / f"{name}.json").read_text())
    config["vision_config"] |= vision
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    save_file({"model.language_model.embed_tokens.weight": torch.ones(1)}, directory / "model.safetensors")
    return Checkpoint(directory)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configurations(name: str, tmp_path: Path) -> None:
    spec = read_spec(described(tmp_path, name))
    text, vision = spec.text, spec.vision
    sizes = text.hidden_size, text.intermediate_size, text.num_layers, text.num_heads, text.num_key_value_heads
    tower = vision.depth, vision.hidden_size, vision.intermediate_size
    assert (sizes, tower, vision.deepstack_blocks) == PUBLISHED[name]
    assert (text.head_dim, text.mrope_section, text.mrope_interleaved, text.rope_theta) == (
        128,
        (24, 20, 20),
        True,
        5e6,
    )
    assert (text.vocab_size, text.deepstack_layers, text.qkv_bias, text.qk_norm) == (151936, 3, False, True)
    assert (vision.patch_dim, vision.position_table, vision.out_hidden_size) == (1536, 48, text.hidden_size)
    assert (spec.image.factor, spec.image.min_pixels, spec.image.max_pixels) == (32, 65536, 16777216)
    assert spec.video.timestamps and spec.video.tokens_per_second is None
    assert (spec.tokens.image, spec.tokens.video, spec.tokens.stop) == (151655, 151656, [151645])


def test_defaults_are_those_of_the_reference(tmp_path: Path) -> None:
    from transformers import Qwen3VLConfig

    theirs = Qwen3VLConfig()
    source = described(tmp_path, "qwen3-vl-2b", out_hidden_size=2048)
    text = source.config["text_config"]
    for name in ("head_dim", "rope_scaling", "rope_theta", "rms_norm_eps", "max_position_embeddings"):
        text.pop(name)
    source.config["vision_config"] = {"out_hidden_size": 2048}
    spec = read_spec(source)
    ours = spec.text
    assert (ours.head_dim, ours.rms_norm_eps) == (theirs.text_config.head_dim, theirs.text_config.rms_norm_eps)
    assert ours.rope_theta == theirs.text_config.rope_parameters["rope_theta"]
    assert spec.max_positions == theirs.text_config.max_position_embeddings
    vision, tower = spec.vision, theirs.vision_config
    assert (vision.depth, vision.hidden_size, vision.num_heads) == (tower.depth, tower.hidden_size, tower.num_heads)
    assert vision.intermediate_size == tower.intermediate_size
    assert vision.deepstack_blocks == tuple(tower.deepstack_visual_indexes)
    assert vision.position_table**2 == tower.num_position_embeddings


@pytest.mark.parametrize(
    ("vision", "reason"),
    [
        ({"num_position_embeddings": 2300}, "num_position_embeddings 2300 is not a square"),
        ({"deepstack_visual_indexes": [5, 5]}, r"deepstack_visual_indexes \[5, 5\] are not increasing"),
        ({"deepstack_visual_indexes": [24]}, r"below depth 24"),
        ({"deepstack_visual_indexes": [-1]}, r"vision_config\.deepstack_visual_indexes"),
        ({"hidden_act": "gelu"}, "vision hidden_act 'gelu'"),
        ({"patch_size": 14}, r"vision patches \(14, 2, 2\) are not the preprocessor's \(16, 2, 2\)"),
        ({"out_hidden_size": 1024}, "out_hidden_size is not the LLM's"),
    ],
    ids=str,
)
def test_what_is_refused(tmp_path: Path, vision: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        read_spec(described(tmp_path, "qwen3-vl-2b", **vision))
    assert "\n" not in str(caught.value)


def everywhere(model: Model) -> np.ndarray:
    """All logits of a prompt with several images."""
    prompt = model.prompt([{"role": "user", "content": three_images()}])
    return model.decoder.prefill(prompt, np.arange(len(prompt.ids)), GenerationStats())


def test_deepstack_matters(model: Loader, bundle: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """What the other tests compare would be seen if it were missing; `encode` gives none of it."""
    whole, without = model("qwen3_vl", "deep", "fp32"), load(bundle("qwen3_vl", "deep", "fp32"), threads=1)
    encode = without.engine.encode

    def plain(*arguments: Any) -> np.ndarray:
        features = encode(*arguments)
        assert features.shape[0] == 1 + without.manifest.llm.deepstack_layers == 3
        features[1:] = 0
        return features

    monkeypatch.setattr(without.engine, "encode", plain)
    assert cosine(everywhere(whole), everywhere(without)) < 0.99
    page = three_images()[0]["image"]
    assert np.array_equal(whole.encode(page), without.encode(page))


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        ({"llm__deepstack_layers": 1}, "geometry and graphs disagree: deepstack_features.1"),
        ({"llm__deepstack_layers": d.REMOVE}, "disagree: deepstack_features.0, deepstack_features.1"),
        ({"image__position_table": 0}, "disagree: interpolation_indices"),
    ],
    ids=["fewer layers", "no layers", "no table"],
)
def test_geometry_is_checked(bundle: Callable[..., Path], tmp_path: Path, field: dict[str, Any], reason: str) -> None:
    copy = Path(shutil.copytree(bundle("qwen3_vl", "deep", "fp32"), tmp_path / "copy"))
    d.edit("bundle.json", **field)(copy)
    with pytest.raises(BundleError, match=reason):
        load(copy)


def test_a_bundle_of_the_first_schema_is_read(bundle: Callable[..., Path]) -> None:
    """Its manifest has none of the newer fields."""
    path = bundle("qwen2_5_vl", "small", "fp32")
    old = json.loads((path / "bundle.json").read_bytes())
    old["schema_version"] = 1
    for part, name in (("image", "position_table"), ("llm", "deepstack_layers"), ("video", "timestamps")):
        del old[part][name]
    read = msgspec.json.decode(json.dumps(old), type=Manifest)
    assert msgspec.structs.replace(read, schema_version=SCHEMA_VERSION) == read_manifest(path)


def test_int4_is_calibrated_with_deepstack(
    checkpoint: Callable[[str, str], Path], model: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers get what the float bundle hands on for the same page, at its image tokens; the result is near float."""
    seen: list[Sample] = []
    quantize = calibrate.quantize_tower
    monkeypatch.setattr(
        calibrate,
        "quantize_tower",
        lambda tower, work, *rest: (seen.extend(work.samples(0)), quantize(tower, work, *rest))[1],
    )
    plan = {"llm_precision": "int4", "calib": HELDOUT, "samples": 6, "accuracy_level": 0, "precision": "fp32"}
    export(export_plan(checkpoint("qwen3_vl", "deep"), tmp_path / "int4", **plan))
    manifest, whole = read_manifest(tmp_path / "int4"), model("qwen3_vl", "deep", "fp32")
    assert "int4 in blocks of 128" in manifest.graphs["llm"].precision and manifest.llm.deepstack_layers == 2
    _, label = next(read_labels(HELDOUT))
    page = {"type": "image", "image": HELDOUT / label.image}
    (placed,) = whole.prompt([{"role": "user", "content": [page, {"type": "text", "text": label.prompt}]}]).placed
    feeds = seen[0].feeds
    assert np.array_equal(feeds["image_positions"][:, 1], np.arange(placed.span.start, placed.span.end))
    deepstack = [feeds["deepstack_features.0"], feeds["deepstack_features.1"]]
    assert np.allclose(deepstack, whole.image_features(placed)[1:], atol=1e-5)
    reference = everywhere(whole)
    assert np.square(everywhere(load(tmp_path / "int4", threads=1)) - reference).mean() < 0.1 * reference.var()
