"""Qwen3.5: configurations, gains, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, PreTrainedModel, Qwen3_5Config, Qwen3_5MoeConfig

from qvl_export import ConfigError, ExportError, export, targets
from qvl_export.checkpoint.directory import Checkpoint
from qvl_export.checkpoint.quantized import gptq_writer
from qvl_export.cli.commands import cli, run
from qvl_export.families import read_spec, tensors
from qvl_export.graph.build import build_llm, bundle_cache, llm_weights
from qvl_export.graph.layers import Weight
from qvl_export.qtensor import QTensor, QuantFormat
from qvl_export.quant.calibration.saved_linear import SavedLinear
from qvl_runtime import load
from qvl_runtime.answers.generate import GenerationStats
from qvl_runtime.bundle import read_manifest
from qvl_runtime.common.exit_codes import BAD_INPUT
from tests.conftest import Bundles
from tests.exporter.test_parity import a_video, assert_close, one_image, oracle_inputs
from tests.exporter.test_qwen3_vl import described
from tests.plans import export_plan
from tests.runtime.templates import QWEN3_5
from tests.runtime.test_tools import TOOLS

FAMILY = "qwen3_5"
MESSAGES = [{"role": "user", "content": "What is the total?"}]


def test_published_configuration(tmp_path: Path) -> None:
    spec = read_spec(described(tmp_path, "qwen3.5-0.8b"))
    text, vision, linear = spec.text, spec.vision, spec.text.linear_attention
    sizes = text.hidden_size, text.intermediate_size, text.num_layers, text.num_heads, text.num_key_value_heads
    assert (spec.family, sizes) == (FAMILY, (1024, 3584, 24, 8, 2))
    assert (text.head_dim, text.rotated, text.mrope_section, text.rope_theta) == (256, 64, (11, 11, 10), 1e7)
    assert text.mrope_interleaved and text.output_gate and text.qk_norm and not text.qkv_bias
    assert linear is not None and linear.layers == frozenset(range(24)) - {3, 7, 11, 15, 19, 23}
    assert (linear.key_heads, linear.value_heads, linear.key_dim, linear.value_dim) == (16, 16, 128, 128)
    assert (linear.kernel, linear.channels) == (4, 6144)
    assert (vision.depth, vision.hidden_size, vision.deepstack_blocks, text.deepstack_layers) == (12, 768, (), 0)
    assert (spec.tokens.image, spec.tokens.video, spec.tokens.stop) == (248056, 248057, [248044])
    assert spec.video.timestamps and spec.max_positions == 262144


PUBLISHED = {
    "qwen3.5-2b": ((2048, 24, 8, 2), (16, 6144), (24, 1024)),
    "qwen3.5-4b": ((2560, 32, 16, 4), (32, 8192), (24, 1024)),
    "qwen3.5-9b": ((4096, 32, 16, 4), (32, 8192), (27, 1152)),
    "qwen3.5-27b": ((5120, 64, 24, 4), (48, 10240), (27, 1152)),
    "qwen3.5-35b-a3b": ((2048, 40, 16, 2), (32, 8192), (27, 1152)),
}
"""Width, layers, heads and heads of keys; value heads and channels of linear attention; blocks and width of a tower."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_larger_configurations(tmp_path: Path, name: str) -> None:
    """As transformers reads them; the shapes of all weights are those of its model, which is built without them."""
    source = described(tmp_path, name)
    spec, (sizes, (value_heads, channels), tower) = read_spec(source), PUBLISHED[name]
    text, linear = spec.text, spec.text.linear_attention
    assert (text.hidden_size, text.num_layers, text.num_heads, text.num_key_value_heads) == sizes
    assert linear is not None and (linear.key_heads, linear.value_heads, linear.channels) == (16, value_heads, channels)
    assert (spec.vision.depth, spec.vision.hidden_size, spec.vision.out_hidden_size) == (*tower, text.hidden_size)
    kind = Qwen3_5MoeConfig if text.moe else Qwen3_5Config
    theirs = kind.from_pretrained(tmp_path).text_config
    assert linear.layers == {i for i, layer in enumerate(theirs.layer_types) if layer == "linear_attention"}
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(kind.from_pretrained(tmp_path)).model.language_model
    expected = {f"model.{name}": tuple(value.shape) for name, value in model.named_parameters()}
    values = build_llm(spec, targets.lower("cpu", "fp16")).model.graph.initializers
    ours = {name: value.source_shape for name, value in values.items() if isinstance(value, Weight)}
    assert ours == expected


def test_experts_of_the_published_configuration(tmp_path: Path) -> None:
    """Qwen3.6-35B-A3B has the same ones."""
    moe, theirs = read_spec(described(tmp_path, "qwen3.5-35b-a3b")).text.moe, Qwen3_5MoeConfig().text_config
    assert moe is not None and moe.dense_layers == frozenset()
    found = moe.num_experts, moe.experts_per_token, moe.intermediate_size, moe.shared_size
    assert found == (256, 8, 512, 512)
    assert found[:3] == (theirs.num_experts, theirs.num_experts_per_tok, theirs.moe_intermediate_size)
    assert found[3] == theirs.shared_expert_intermediate_size


@pytest.mark.parametrize("name", ["qwen3.5-27b", "qwen3.5-35b-a3b"])
def test_keys_of_qwen3_6_change_nothing(tmp_path: Path, name: str) -> None:
    """Its configurations have the same sizes, and say what the gate of linear attention is."""
    source = described(tmp_path, name)
    plain = read_spec(source)
    source.config["text_config"] |= {"output_gate_type": "swish", "partial_rotary_factor": 0.25, "bos_token_id": 248044}
    source.config |= {"language_model_only": False}
    assert read_spec(source) == plain


def test_more_experts_chosen_than_there_are(tmp_path: Path) -> None:
    source = described(tmp_path, "qwen3.5-35b-a3b")
    source.config["text_config"]["num_experts_per_tok"] = 257
    with pytest.raises(ConfigError, match="num_experts_per_tok 257 is more than 256 experts"):
        read_spec(source)


def test_defaults_are_those_of_the_reference(tmp_path: Path) -> None:
    theirs, source = Qwen3_5Config().text_config, described(tmp_path, "qwen3.5-0.8b")
    text = source.config["text_config"]
    for name in [*text]:
        if name.startswith("linear_") or name in ("head_dim", "rms_norm_eps", "max_position_embeddings", "layer_types"):
            del text[name]
    del text["rope_parameters"]["partial_rotary_factor"], source.config["image_token_id"], text["attn_output_gate"]
    spec = read_spec(source)
    ours, linear = spec.text, spec.text.linear_attention
    assert linear is not None
    assert (ours.head_dim, ours.rms_norm_eps) == (theirs.head_dim, theirs.rms_norm_eps)
    assert ours.rotated == ours.head_dim * theirs.rope_parameters["partial_rotary_factor"]
    assert spec.max_positions == theirs.max_position_embeddings
    assert (linear.key_heads, linear.value_heads) == (theirs.linear_num_key_heads, theirs.linear_num_value_heads)
    assert (linear.key_dim, linear.value_dim) == (theirs.linear_key_head_dim, theirs.linear_value_head_dim)
    assert linear.kernel == theirs.linear_conv_kernel_dim
    kinds = theirs.layer_types[:24]
    assert linear.layers == {index for index, kind in enumerate(kinds) if kind == "linear_attention"}
    assert spec.tokens.image == Qwen3_5Config().image_token_id


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"layer_types": ["linear_attention"] * 23}, "23 layer_types for 24 layers"),
        ({"layer_types": ["sliding_attention"] * 24}, "layer_types"),
        ({"linear_num_key_heads": 5}, "linear_num_key_heads 5 does not divide linear_num_value_heads 16"),
        ({"linear_conv_kernel_dim": 1}, "linear_conv_kernel_dim"),
        ({"attention_bias": True}, "attention_bias is not supported"),
        ({"output_gate_type": "sigmoid"}, "output_gate_type 'sigmoid' is not supported"),
    ],
    ids=str,
)
def test_unsupported_values(tmp_path: Path, said: dict[str, Any], message: str) -> None:
    source = described(tmp_path, "qwen3.5-0.8b")
    source.config["text_config"] |= said
    with pytest.raises(ConfigError, match=message):
        read_spec(source)


@pytest.mark.parametrize("factor", [0, 1.5, "half", 0.005, 1 / 256])
def test_parts_of_heads_that_cannot_be_rotated(tmp_path: Path, factor: Any) -> None:
    source = described(tmp_path, "qwen3.5-0.8b")
    source.config["text_config"]["rope_parameters"]["partial_rotary_factor"] = factor
    with pytest.raises(ConfigError, match="partial_rotary_factor is"):
        read_spec(source)


def test_deepstack_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="deepstack_visual_indexes are not supported"):
        read_spec(described(tmp_path, "qwen3.5-0.8b", deepstack_visual_indexes=[3]))


def test_one_is_added_to_gains_except_the_gated_norms(checkpoint: Callable[[str, str], Path]) -> None:
    source = Checkpoint(checkpoint(FAMILY, "small"))
    found = tensors(source, read_spec(source))
    changed = {
        name
        for name, tensor in source.tensors.items()
        if not np.array_equal(*(np.concatenate([*t.chunks()]).astype(np.float32) for t in (tensor, found[name])))
    }
    norms = {f"model.layers.{i}.{name}_layernorm.weight" for i in (0, 1) for name in ("input", "post_attention")}
    assert changed == norms | {f"model.layers.1.self_attn.{x}_norm.weight" for x in "qk"} | {"model.norm.weight"}


def test_the_head_for_drafts_is_left_out(checkpoint: Callable[[str, str], Path], tmp_path: Path) -> None:
    source = Path(shutil.copytree(checkpoint(FAMILY, "small"), tmp_path / "source"))
    file = source / "model.safetensors"
    save_file(load_file(file) | {"mtp.fc.weight": torch.ones(64, 128), "mtp.norm.weight": torch.ones(64)}, file)
    export(export_plan(source, tmp_path / "bundle", precision="fp16"))
    with load(tmp_path / "bundle", threads=1) as model:
        assert model.logits(MESSAGES, "12").shape[0] > 0


def asked() -> list[dict[str, Any]]:
    """An image and a video, a call of a tool since the last question, and its result."""
    call = {"function": {"name": "look_up", "arguments": {"id": "7", "limit": 3}}}
    return [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [*one_image(), *a_video()]},
        {"role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls": [call]},
        {"role": "tool", "content": "12"},
    ]


@pytest.mark.parametrize("thinking", [True, False])
def test_prompts_of_its_template(
    checkpoint: Callable[[str, str], Path],
    oracle: Callable[[str, str], PreTrainedModel],
    tmp_path: Path,
    thinking: bool,
) -> None:
    """Logits of all tokens are transformers', which is given the same ids; frames have their times."""
    source = Path(shutil.copytree(checkpoint(FAMILY, "small"), tmp_path / "source"))
    (source / "chat_template.jinja").write_text(QWEN3_5)
    export(export_plan(source, tmp_path / "bundle", precision="fp32"))
    with load(tmp_path / "bundle", threads=1) as model:
        prompt = model.prompt(asked(), tools=TOOLS, template_args={"enable_thinking": thinking})
        logits = model.decoder.prefill(prompt, np.arange(len(prompt.ids)), GenerationStats())
        text = model.tokenizer.decode(prompt.ids)
        with torch.no_grad():
            theirs = oracle(FAMILY, "small")(**oracle_inputs(model, prompt)).logits[0].numpy()
    assert_close(logits, theirs, "fp32")
    assert text.endswith("assistant\n<think>\n" if thinking else "assistant\n<think>\n\n</think>\n\n")
    assert "<think>\nhm\n</think>\n\n<tool_call>\n<function=look_up>\n<parameter=id>\n7\n</parameter>" in text
    assert " seconds>" in text


@pytest.mark.parametrize("family", [FAMILY, "qwen3_5_moe"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--target", "tensorrt"],
            "TensorRT has no linear attention (export with --target cpu, cuda, openvino or portable)",
        ),
        (
            ["--target", "tensorrt-rtx"],
            "TensorRT has no linear attention (export with --target cpu, cuda, openvino or portable)",
        ),
        (["--layout", "genai"], "--layout genai does not support family "),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_what_has_no_linear_attention_is_refused(
    checkpoint: Callable[[str, str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    family: str,
    options: list[str],
    message: str,
) -> None:
    source = str(checkpoint(family, "small"))
    capsys.readouterr()  # of transformers, if it has just saved the checkpoint
    with pytest.raises(SystemExit) as stopped:
        run(cli, ["export", source, str(tmp_path / "b"), "--quiet", *options])
    said = capsys.readouterr().err
    assert stopped.value.code == BAD_INPUT and said.startswith("error: ") and said.count("\n") == 1
    assert message in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [{"max_kl": 0.1}, {"max_size": 1_000_000}], ids=str)
def test_sensitivities_of_experts_are_refused(
    checkpoint: Callable[[str, str], Path], tmp_path: Path, options: dict[str, float]
) -> None:
    with pytest.raises(ExportError, match="the sensitivity of experts cannot be measured"):
        export(export_plan(checkpoint("qwen3_5_moe", "small"), tmp_path / "b", samples=1, **options))
    assert not list(tmp_path.iterdir())


def test_rotation_is_refused(checkpoint: Callable[[str, str], Path], tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"cannot be rotated: .*linear_attn"):
        export(export_plan(checkpoint(FAMILY, "small"), tmp_path / "bundle", precision="int4", rotate=True))
    assert not (tmp_path / "bundle").exists()


def test_what_layers_keep_is_in_the_manifest(bundle: Bundles, checkpoint: Callable[[str, str], Path]) -> None:
    manifest = read_manifest(bundle(FAMILY, "deep", "fp16"))
    spec = read_spec(Checkpoint(checkpoint(FAMILY, "deep")))
    assert manifest.cache == bundle_cache(spec, targets.lower("cpu", "fp16"))
    assert [kept.kind for kept in manifest.cache] == ["recurrent", "kv", "recurrent", "recurrent", "kv"]
    assert manifest.recurrent


def test_a_gptq_checkpoint_is_read(checkpoint: Callable[[str, str], Path], tmp_path: Path) -> None:
    """Its head for drafts is quantized too, and left out; the projections of decay and step size are float."""
    source = Checkpoint(checkpoint(FAMILY, "small"))
    shapes = llm_weights(read_spec(source).text, targets.lower("cpu", "fp16"))
    shapes = {name: shape for name, shape in shapes.items() if name.startswith("model.layers.")}
    linears = {}
    for seed, (name, shape) in enumerate(shapes.items()):
        rng = np.random.default_rng(seed)
        scales = rng.random((shape[0], shape[1] // 32)).astype(np.float16) / 64
        tensor = QTensor(QuantFormat(4, 32), rng.integers(0, 16, shape, dtype=np.uint8), scales)
        linears[name] = SavedLinear(name, tmp_path / f"{seed}.npz", tensor.format, *shape)
        linears[name].save(tensor)
    out = tmp_path / "gptq"
    out.mkdir()
    gptq_writer.save(out, source, linears, lambda *_: None, lambda _: None)
    stored = load_file(out / "model.safetensors")
    drafts = {
        name.replace("model.language_model.layers.1", "mtp.layers.0"): tensor.clone()
        for name, tensor in stored.items()
        if "language_model.layers.1.self_attn" in name
    }
    save_file(stored | drafts, out / "model.safetensors")
    manifest = export(export_plan(out, tmp_path / "bundle"))
    assert set(manifest.graphs["llm"].linears) == set(shapes)
    assert {name.rpartition(".")[2] for name in shapes if "linear_attn" in name} == {
        "in_proj_qkv",
        "in_proj_z",
        "out_proj",
    }
    with load(tmp_path / "bundle", threads=1) as model:
        assert np.isfinite(model.logits(MESSAGES, "12")).all()


def test_saving_a_gptq_checkpoint_is_refused(checkpoint: Callable[[str, str], Path], tmp_path: Path) -> None:
    plan = {"llm_precision": "int4", "samples": 1, "save_gptq": tmp_path / "gptq"}
    with pytest.raises(ExportError, match="--save-gptq is not supported for models with linear attention"):
        export(export_plan(checkpoint(FAMILY, "small"), tmp_path / "bundle", **plan))
    assert not list(tmp_path.iterdir())
