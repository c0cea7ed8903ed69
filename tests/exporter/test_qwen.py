"""Qwen-VL (v1): features that its successors lack. All other tests run over every family."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from qvl_export import ExportError, ExportPlan, export, families
from qvl_export.checkpoint.directory import Checkpoint
from qvl_export.checkpoint.safetensors_reader import StoredTensor
from qvl_export.families import qwen, read_spec
from qvl_export.graph.build import build_llm, build_vision
from qvl_export.graph.weight_matching import match
from qvl_export.targets import lower
from qvl_runtime.answers.generate import GenerationStats
from qvl_runtime.bundle import read_manifest
from qvl_runtime.cli.describe import describe
from qvl_runtime.errors import PromptError
from qvl_runtime.grounding import Box
from qvl_runtime.model import Model, load
from qvl_runtime.positions import ntk_alpha
from qvl_runtime.preprocess import patchify
from qvl_runtime.prompts.prompt import Media, place_media
from qvl_runtime.templates.chat import ChatTemplate
from tests.conftest import Loader
from tests.exporter.test_parity import assert_close, image, oracle_inputs, ways
from tests.oracles import tiny
from tests.oracles.families import qwen as tiny_qwen
from tests.oracles.qwen_vl import QwenVl
from tests.plans import export_plan
from tests.quant.test_awq import CONFIG, quantized

Checkpoints = Callable[[str, str], Path]
PUBLISHED = {
    "architectures": ["QWenLMHeadModel"],
    "model_type": "qwen",
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "kv_channels": 128,
    "layer_norm_epsilon": 1e-06,
    "max_position_embeddings": 8192,
    "no_bias": True,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "onnx_safe": None,
    "rotary_emb_base": 10000,
    "rotary_pct": 1.0,
    "scale_attn_weights": True,
    "seq_length": 2048,
    "tie_word_embeddings": False,
    "use_dynamic_ntk": True,
    "use_flash_attn": False,
    "use_logn_attn": True,
    "visual": {
        "heads": 16,
        "image_size": 448,
        "image_start_id": 151857,
        "layers": 48,
        "mlp_ratio": 4.9231,
        "output_dim": 4096,
        "patch_size": 14,
        "width": 1664,
    },
    "vocab_size": 151936,
}
"""`config.json` of Qwen/Qwen-VL-Chat."""
TINY_VISUAL = tiny_qwen.config(tiny.SHAPES["small"])["visual"]


def user(*content: Any) -> list[dict[str, Any]]:
    parts = [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]
    return [{"role": "user", "content": parts}]


def picture(seed: int = 1) -> dict[str, Any]:
    return {"type": "image", "image": image(150, 90, seed)}


def changed(checkpoint: Path, out: Path, **changes: Any) -> Path:
    """A copy with other values in config.json."""
    shutil.copytree(checkpoint, out)
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(config | changes))
    return out


def described(tmp_path: Path, chat_format: str) -> Checkpoint:
    """The published configuration with a shard of no use."""
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED))
    (tmp_path / "generation_config.json").write_text(json.dumps({"chat_format": chat_format}))
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    return Checkpoint(tmp_path)


def test_the_published_configuration(tmp_path: Path) -> None:
    spec = read_spec(described(tmp_path, "chatml"))
    vision, text = spec.vision, spec.text
    assert (vision.depth, vision.hidden_size, vision.intermediate_size, vision.head_dim) == (48, 1664, 8192, 104)
    assert (vision.patches, vision.patch_dim, vision.rotary) == (1024, 588, False)
    assert vision.resampler is not None and (vision.resampler.queries, vision.resampler.num_heads) == (256, 32)
    assert (text.hidden_size, text.intermediate_size, text.head_dim, text.tied) == (4096, 11008, 128, False)
    assert (text.ntk_length, text.logn_length, spec.max_positions, text.flat_positions) == (2048, 2048, 8192, True)
    assert (spec.tokens.image, spec.tokens.video, spec.tokens.stop) == (151859, None, [151643, 151645, 151644])
    assert (spec.image.square, spec.image.queries, spec.image.max_pixels) == (448, 256, 448 * 448)


def test_the_published_sizes_have_their_indices(tmp_path: Path) -> None:
    """Every tensor of the full model by its published name; as many parameters as table 1 of the paper has."""
    checkpoint = described(tmp_path, "chatml")
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in QwenVl(PUBLISHED).state_dict().items()}
    bfloat16 = np.dtype(ml_dtypes.bfloat16)
    checkpoint.__dict__["tensors"] = {
        name: StoredTensor(name, tmp_path / "model.safetensors", bfloat16, shape, 0) for name, shape in shapes.items()
    }
    spec, target = read_spec(checkpoint), lower("cpu", "fp16")
    graphs = build_vision(spec, target), build_llm(spec, target)
    match(graphs, families.tensors(checkpoint, spec), {}, (), tmp_path)
    adapter = {name for name in shapes if "attn_pool" in name}
    tower = {name for name in shapes if ".visual." in name} - adapter
    counts = [
        sum(math.prod(shapes[name]) for name in part) for part in (tower, adapter, shapes.keys() - tower - adapter)
    ]
    assert [round(count / 1e9, 2) for count in counts] == [1.86, 0.08, 7.72]  # 1.9 B, 0.08 B, 7.7 B


def test_the_model_that_does_not_chat(tmp_path: Path) -> None:
    spec = read_spec(described(tmp_path, "raw"))
    assert spec.tokens.stop == [151643]
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Caption:"}]}]
    text = ChatTemplate(spec.chat_template, tmp_path).render(messages)
    assert text == "Picture 1: <img><imgpad></img>\nCaption:"


def test_prompts_are_chatml_with_numbered_pictures() -> None:
    turns = [
        *user({"type": "image"}, {"type": "image"}, "Compare."),
        {"role": "assistant", "content": "Equal."},
        *user("And ", {"type": "image"}, "this?"),
    ]
    text = ChatTemplate(qwen.CHATML, Path("t")).render(turns)
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nPicture 1: <img><imgpad></img>\nPicture 2: <img><imgpad></img>\nCompare.<|im_end|>\n"
        "<|im_start|>assistant\nEqual.<|im_end|>\n"
        "<|im_start|>user\nAnd Picture 3: <img><imgpad></img>\nthis?<|im_end|>\n<|im_start|>assistant\n"
    )
    own = ChatTemplate(qwen.CHATML, Path("t")).render([{"role": "system", "content": "Be brief."}, *user("Hi")])
    assert own.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n")


@pytest.mark.slow
@pytest.mark.parametrize("shape", tiny.SHAPES)
@ways
def test_image_features(
    oracle: Callable[[str, str], QwenVl], model: Loader, shape: str, target: str, precision: str
) -> None:
    """Tables of positions as they are, spread wider and closer; squeezed and stretched pictures."""
    ours, theirs = model("qwen", shape, precision, target), oracle("qwen", shape)
    for size in ((300, 200), (90, 400), (448, 448)):
        alone = image(*size, seed=2)
        placed = place_media(Media("image", (alone,)), 0, ours.manifest.image.max_pixels, ours.manifest)
        patches = torch.from_numpy(placed.patches(ours.manifest.image).pixel_values)
        with torch.no_grad():
            expected = theirs.model.visual(patches.flatten(0, 1), torch.ones(1, 3)).pooler_output.numpy()
        assert_close(ours.image_features(placed)[0], expected, precision)


@pytest.mark.parametrize("size", [(448, 448), (1000, 300), (60, 90)])
def test_pixels_are_those_of_the_original_transform(tmp_path: Path, size: tuple[int, int]) -> None:
    """torchvision's Resize of a picture is Pillow's; ToTensor divides by 255; patches are cut row by row."""
    geometry, page = read_spec(described(tmp_path, "chatml")).image, image(*size, seed=3)
    pixels = torch.from_numpy(np.array(page.resize((448, 448), Image.Resampling.BICUBIC))).permute(2, 0, 1) / 255
    normal = (pixels - torch.tensor(qwen.MEAN)[:, None, None]) / torch.tensor(qwen.STD)[:, None, None]
    expected = torch.nn.functional.unfold(normal[None], 14, stride=14)[0].T
    ours = patchify([page], geometry)
    assert ours.pixel_values.shape == (1, 1024, 588)
    assert np.abs(ours.pixel_values[0] - expected.numpy()).max() < 1e-6


@pytest.mark.parametrize(("length", "alpha"), [(1, 1), (2048, 1), (2049, 3), (4096, 3), (4097, 7), (8192, 7)])
def test_the_base_grows_with_the_prompt(length: int, alpha: float) -> None:
    assert ntk_alpha(length, 2048) == alpha
    assert ntk_alpha(length, 0) == 1
    assert max(2 ** math.ceil(math.log(length / 2048, 2) + 1) - 1, 1) == alpha


def of_length(model: Model, length: int) -> Any:
    """A prompt with a picture and exactly `length` tokens."""
    few = len(model.prompt(user(picture(), "x")).ids)
    prompt = model.prompt(user(picture(), "x" + " 1" * ((length - few) // 2) + "," * ((length - few) % 2)))
    assert len(prompt.ids) == length
    return prompt


@pytest.mark.parametrize("length", [500, 512, 513, 1030])
def test_answers_across_the_trained_length(oracle: Callable[[str, str], QwenVl], model: Loader, length: int) -> None:
    """Trained on 512 tokens: an answer that goes beyond keeps its prompt's frequencies, its queries grow."""
    ours, theirs = model("qwen", "deep", "fp32"), oracle("qwen", "deep")
    prompt = of_length(ours, length)
    assert prompt.ntk_alpha == ntk_alpha(length, 512)
    with torch.no_grad():
        generated = theirs.generate(**oracle_inputs(ours, prompt), max_new_tokens=33, return_dict_in_generate=True)
    tokens = generated.sequences[0, length:].tolist()
    steps = [ours.decoder.prefill(prompt, np.array([length - 1]), GenerationStats())[0]]
    for index, token in enumerate(tokens[:32]):
        steps.append(ours.decoder.step(token, prompt.next_position + index))
    assert_close(np.stack(steps), torch.cat(generated.logits).numpy(), "fp32")
    forced = ours.decoder.prefill(
        prompt.followed_by(np.array(tokens[:32])), np.arange(length - 1, length + 32), GenerationStats()
    )
    assert_close(forced, np.stack(steps), "fp32")


@pytest.mark.slow
def test_frequencies_and_growing_queries_can_be_off(checkpoint: Checkpoints, tmp_path: Path) -> None:
    """Each changes long prompts alone."""
    source, found = checkpoint("qwen", "deep"), {}
    for name, changes in {"both": {}, "ntk": {"use_logn_attn": False}, "logn": {"use_dynamic_ntk": False}}.items():
        made = changed(source, tmp_path / name, **changes)
        export(ExportPlan(made, tmp_path / f"{name}.b", precision="fp32"))
        ours, theirs = load(tmp_path / f"{name}.b", threads=1), QwenVl(json.loads((made / "config.json").read_text()))
        theirs.load_state_dict(load_file(made / "model.safetensors"))
        prompt = of_length(ours, 700)
        with torch.no_grad():
            expected = theirs(**oracle_inputs(ours, prompt)).logits[0].numpy()
        found[name] = ours.decoder.prefill(prompt, np.arange(700), GenerationStats())
        assert_close(found[name], expected, "fp32")
    assert np.abs(found["both"] - found["ntk"]).max() > 1e-2 < np.abs(found["both"] - found["logn"]).max()


def test_a_longer_prompt_does_not_reuse_other_frequencies(bundle: Callable[..., Path], model: Loader) -> None:
    ours = load(bundle("qwen", "deep", "fp32"), threads=1)
    short, long = of_length(ours, 505), of_length(ours, 600)
    for prompt, reused in ((short, 0), (long, 0), (long, 599), (short, 0)):
        run = GenerationStats()
        logits = ours.decoder.prefill(prompt, np.array([len(prompt.ids) - 1]), run)
        assert run.counts.reused == reused
        fresh = load(bundle("qwen", "deep", "fp32"), threads=1)
        expected = fresh.decoder.prefill(prompt, np.array([len(prompt.ids) - 1]), GenerationStats())
        assert np.abs(logits - expected).max() < 1e-4
    tokens = list(ours.decoder.generate(long, 4, frozenset(), lambda logits: int(logits.argmax()), GenerationStats()))
    run = GenerationStats()
    ours.decoder.prefill(long.followed_by(np.array(tokens)), np.array([603]), run)
    assert run.counts.reused == 603, "an answer's keys are those of its prompt"


def test_every_image_is_256_tokens_in_a_row(model: Loader) -> None:
    prompt = model("qwen", "wide", "fp32").prompt(user(picture(), "a", picture(2)))
    assert [item.span.tokens for item in prompt.placed] == [256, 256]
    assert np.array_equal(prompt.positions, np.tile(np.arange(len(prompt.ids)), (3, 1)))
    for item in prompt.placed:
        assert prompt.ids[item.span.start - 1] == 565 and prompt.ids[item.span.end] == 566
        assert set(prompt.ids[item.span.start : item.span.end].tolist()) == {567}


def test_inspect_says_what_it_sees(bundle: Callable[..., Path]) -> None:
    said = describe(read_manifest(bundle("qwen", "wide", "fp32")))
    assert "448 × 448 pixels whatever their shape, 256 tokens each" in said
    assert "ntk_alpha" in said


def test_videos_are_refused(model: Loader) -> None:
    with pytest.raises(PromptError, match="does not accept videos"):
        model("qwen", "small", "fp32").prompt(user({"type": "video", "video": [image(56, 56, 1)] * 2}))


def test_marks_of_boxes_survive_decoding(model: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = model("qwen", "small", "fp32")
    said = "<ref>the total</ref><box>(100,200),(500,600)</box><|im_end|>"
    tokens = iter(ours.token_ids(said))
    monkeypatch.setattr("qvl_runtime.answers.sampling.Sampling.picker", lambda _: lambda logits: next(tokens))
    answer = ours.generate(user(picture(), "Where?"), max_new_tokens=60)
    assert answer == said.removesuffix("<|im_end|>")
    assert ours.regions(answer, image(200, 100, 1)) == [Box("the total", 20, 20, 100, 60)]


def refused(checkpoint: Path, out: Path, **plan: Any) -> str:
    with pytest.raises(ExportError) as error:
        export(export_plan(checkpoint, out, **plan))
    assert not out.exists() and "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rotary_pct": 0.5}, "rotary_pct"),
        ({"no_bias": False}, "no_bias"),
        ({"kv_channels": 64}, "kv_channels"),
        ({"visual": None}, "visual"),
        ({"visual": {"heads": 3}}, "visual"),
        ({"visual": {**TINY_VISUAL, "image_start_id": 566}}, "special tokens of config.json start at 352"),
        ({"visual": {**TINY_VISUAL, "image_size": 220}}, "not whole patches"),
    ],
)
def test_configurations_that_cannot_be_used(
    checkpoint: Checkpoints, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    assert message in refused(changed(checkpoint("qwen", "small"), tmp_path / "c", **changes), tmp_path / "b")


def test_what_is_not_qwen_vl_is_refused(checkpoint: Checkpoints, tmp_path: Path) -> None:
    source = changed(checkpoint("qwen", "small"), tmp_path / "c")
    config = json.loads((source / "config.json").read_text())
    config.pop("visual")
    (source / "config.json").write_text(json.dumps(config))
    assert "without a vision tower" in refused(source, tmp_path / "b")


def test_options_it_does_not_take(checkpoint: Checkpoints, tmp_path: Path) -> None:
    source = checkpoint("qwen", "small")
    assert "224 × 224 pixels" in refused(source, tmp_path / "b", max_pixels=100000)
    assert "names of family qwen" in refused(source, tmp_path / "b", precision="int4", save_gptq=tmp_path / "g")
    assert "--max-length 9000" in refused(source, tmp_path / "b", max_length=9000)
    assert "--layout genai does not support family qwen" in refused(source, tmp_path / "b", layout="genai")


def test_quantized_ones_are_refused(checkpoint: Checkpoints, tmp_path: Path) -> None:
    source = changed(checkpoint("qwen", "small"), tmp_path / "c", quantization_config=CONFIG)
    parts, _ = quantized("transformer.h.0.attn.c_proj", 128, 128, 32, seed=0)
    tensors = load_file(source / "model.safetensors")
    save_file(
        {**tensors, **{name: torch.from_numpy(part) for name, part in parts.items()}}, source / "model.safetensors"
    )
    assert "quantized checkpoints of Qwen-VL are not supported" in refused(source, tmp_path / "b")


def test_files_that_are_missing(checkpoint: Checkpoints, tmp_path: Path) -> None:
    source = changed(checkpoint("qwen", "small"), tmp_path / "c")
    (source / "qwen.tiktoken").rename(source / "other")
    assert "qwen.tiktoken is missing" in refused(source, tmp_path / "b")
    (source / "other").rename(source / "qwen.tiktoken")
    (source / "model.safetensors").rename(source / "pytorch_model-00001-of-00001.bin")
    assert "only pickled weights (.bin)" in (said := refused(source, tmp_path / "b"))
    assert "safe_serialization=True" in said


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("transformer.h.1.attn.c_attn.weight", "q_proj.weight"),
        ("transformer.visual.attn_pool.pos_embed", "query_position.weight"),
        ("transformer.visual.transformer.resblocks.0.attn.in_proj.bias", "visual.blocks.0.attn.qkv.bias"),
    ],
)
def test_tensors_that_are_missing_or_of_another_shape(
    checkpoint: Checkpoints, tmp_path: Path, name: str, message: str
) -> None:
    source = changed(checkpoint("qwen", "small"), tmp_path / "c")
    tensors = load_file(source / "model.safetensors")
    for value in (None, tensors[name][:-1].clone()):
        save_file(
            {**{n: t for n, t in tensors.items() if n != name}, **({} if value is None else {name: value})},
            source / "model.safetensors",
        )
        assert message in refused(source, tmp_path / "b")
