"""Checkpoints in all the forms they come in: shards, element types, namings, configurations of transformers 4 and 5."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from qvl_export import ExportPlan, export
from qvl_export.checkpoint.directory import Checkpoint
from qvl_export.families import read_spec
from qvl_runtime import load
from tests.exporter import damage as d
from tests.oracles import tiny

CONFIGS = Path(__file__).parents[1] / "configs"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
MESSAGES = [{"role": "user", "content": "Read."}]
Tensors = dict[str, torch.Tensor]
both = pytest.mark.parametrize(
    ("family", "shape"),
    [
        ("qwen2_vl", "deep"),
        ("qwen2_5_vl", "small"),
        ("qwen3_vl", "deep"),
        ("qwen3_5", "deep"),
        ("qwen3_5_moe", "small"),
    ],
)


def data_hashes(checkpoint: Path, out: Path) -> list[str]:
    """The hashes of both weight files of its fp16 bundle."""
    files = export(ExportPlan(checkpoint, out)).files
    return [files[f"{name}.onnx.data"].sha256 for name in ("vision", "llm")]


@pytest.fixture
def variant(checkpoint: Callable[[str, str], Path], tmp_path: Path) -> Callable[[str, str, str, d.Damage], Path]:
    """A named copy of a checkpoint after a change."""

    def make(family: str, shape: str, name: str, change: d.Damage) -> Path:
        copy = Path(shutil.copytree(checkpoint(family, shape), tmp_path / name))
        change(copy)
        return copy

    return make


def nest(tensors: Tensors) -> None:
    """From the names of transformers 4 to those that transformers 5 gives in memory, or back."""
    for name in list(tensors):
        if name != HEAD:
            tensors[_other_name(name)] = tensors.pop(name)


def _other_name(name: str) -> str:
    if name.startswith("model.visual."):
        return name.removeprefix("model.")
    if name.startswith("model.language_model."):
        return name.replace("language_model.", "", 1)
    return f"model.{name}" if name.startswith("visual.") else name.replace("model.", "model.language_model.", 1)


@both
def test_both_namings_are_one_model(family: str, shape: str, variant: Any, tmp_path: Path) -> None:
    plain, nested = (variant(family, shape, *pair) for pair in (("a", d.nothing), ("b", d.tensors(nest))))
    assert set(load_file(plain / d.SHARD)).isdisjoint(set(load_file(nested / d.SHARD)) - {HEAD})
    assert data_hashes(plain, tmp_path / "one") == data_hashes(nested, tmp_path / "two")


@both
def test_shards_are_one_model(
    family: str,
    shape: str,
    oracle: Callable[[str, str], PreTrainedModel],
    checkpoint: Callable[[str, str], Path],
    tmp_path: Path,
) -> None:
    sharded = tiny.save(oracle(family, shape), tmp_path / "sharded", max_shard_size="200KB")
    assert len(list(sharded.glob("model-*.safetensors"))) > 2
    assert data_hashes(sharded, tmp_path / "one") == data_hashes(checkpoint(family, shape), tmp_path / "two")


def cast(dtype: torch.dtype) -> d.Damage:
    """Numbers that bfloat16, float16 and float32 hold exactly, stored as `dtype`."""

    def change(tensors: Tensors) -> None:
        for name, tensor in tensors.items():
            exact = tensor.bfloat16().float()
            tensors[name] = torch.where(exact.abs() < 2**-14, 0.0, exact).to(dtype)

    return d.tensors(change)


@both
def test_element_types_are_one_model(family: str, shape: str, variant: Any, tmp_path: Path) -> None:
    types = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    hashes = [
        data_hashes(variant(family, shape, name, cast(dtype)), tmp_path / f"out-{name}")
        for name, dtype in types.items()
    ]
    assert hashes[0] == hashes[1] == hashes[2]


def flatten(here: Path) -> None:
    """config.json as transformers 4 wrote it."""
    config = json.loads((here / d.CONFIG).read_text())
    text = config.pop("text_config")
    rope = text.pop("rope_parameters")
    if "linear_attention" not in text.get("layer_types", ()):
        text.pop("layer_types", None)
    config["vision_config"].pop("rope_parameters", None)
    flat = {**text, **config, "torch_dtype": config.pop("dtype"), "rope_theta": rope.pop("rope_theta")}
    del rope["rope_type"]
    flat["rope_scaling"] = {**rope, "type": "mrope"}
    (here / d.CONFIG).write_text(json.dumps(flat))


@both
def test_flat_and_nested_configurations_say_the_same(family: str, shape: str, variant: Any) -> None:
    nested, flat = variant(family, shape, "nested", d.nothing), variant(family, shape, "flat", flatten)
    assert "text_config" not in Checkpoint(flat).config
    assert read_spec(Checkpoint(flat)) == read_spec(Checkpoint(nested))


@dataclass(frozen=True)
class Published:
    """Sizes of a published model; `text` is hidden, intermediate, layers, heads, key/value heads, vocabulary."""

    name: str
    text: tuple[int, ...]
    max_positions: int
    vision_intermediate: int
    full_attention: frozenset[int]
    window: int
    tokens_per_second: float | None


ALL, FEW = frozenset(range(32)), frozenset((7, 15, 23, 31))
PUBLISHED = [
    Published("qwen2-vl-2b", (1536, 8960, 28, 12, 2, 151936), 32768, 5120, ALL, 0, None),
    Published("qwen2-vl-7b", (3584, 18944, 28, 28, 4, 152064), 32768, 5120, ALL, 0, None),
    Published("qwen2.5-vl-3b", (2048, 11008, 36, 16, 2, 151936), 128000, 3420, FEW, 4, 2),
    Published("qwen2.5-vl-7b", (3584, 18944, 28, 28, 4, 152064), 128000, 3420, FEW, 4, 2),
]


@pytest.mark.parametrize("untied", [False, True])
@pytest.mark.parametrize("expected", PUBLISHED, ids=lambda model: model.name)
def test_published_configurations(expected: Published, untied: bool, tmp_path: Path) -> None:
    shutil.copyfile(CONFIGS / f"{expected.name}.json", tmp_path / "config.json")
    shutil.copyfile(tiny.REFERENCE / "preprocessor_config.json", tmp_path / "preprocessor_config.json")
    head = {HEAD: torch.zeros(1)} if untied else {}
    save_file({EMBEDDING: torch.ones(1), **head}, tmp_path / "model.safetensors")
    spec = read_spec(Checkpoint(tmp_path))
    text, vision = spec.text, spec.vision
    sizes = text.hidden_size, text.intermediate_size, text.num_layers, text.num_heads, text.num_key_value_heads
    assert ((*sizes, text.vocab_size), spec.max_positions) == (expected.text, expected.max_positions)
    assert (text.head_dim, text.mrope_section, text.rope_theta, text.tied) == (128, (16, 24, 24), 1e6, not untied)
    assert (vision.depth, vision.hidden_size, vision.num_heads, vision.out_hidden_size) == (32, 1280, 16, sizes[0])
    assert (vision.patch_dim, vision.spatial_merge_size, vision.head_dim) == (1176, 2, 80)
    assert (vision.intermediate_size, vision.full_attention_blocks) == (
        expected.vision_intermediate,
        expected.full_attention,
    )
    assert spec.image.window == expected.window
    assert spec.video.tokens_per_second == expected.tokens_per_second
    assert (spec.tokens.image, spec.tokens.video, spec.tokens.stop) == (151655, 151656, [151645])


def with_head(factor: float) -> d.Damage:
    """An `lm_head.weight` that is a multiple of the embedding table."""
    return d.tensors(lambda tensors: tensors.update({HEAD: tensors[EMBEDDING] * factor}))


def test_a_head_equal_to_the_table_is_stored_once(variant: Any, tmp_path: Path) -> None:
    plain, copied = (variant("qwen2_5_vl", "small", *pair) for pair in (("a", d.nothing), ("b", with_head(1))))
    assert HEAD in Checkpoint(copied).tensors and read_spec(Checkpoint(copied)).text.tied
    assert data_hashes(copied, tmp_path / "one") == data_hashes(plain, tmp_path / "two")


def test_a_separate_head_is_used_for_any_configuration(variant: Any, tmp_path: Path) -> None:
    plain, doubled = (variant("qwen2_5_vl", "small", *pair) for pair in (("a", d.nothing), ("b", with_head(2))))
    assert Checkpoint(doubled).config["tie_word_embeddings"] and not read_spec(Checkpoint(doubled)).text.tied
    logits = []
    for number, source in enumerate((plain, doubled)):
        export(ExportPlan(source, tmp_path / f"out{number}", precision="fp32"))
        logits.append(load(tmp_path / f"out{number}", threads=1).logits(MESSAGES, "text"))
    np.testing.assert_allclose(logits[1], 2 * logits[0], rtol=1e-4, atol=1e-4)
