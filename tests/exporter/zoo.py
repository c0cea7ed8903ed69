"""Checkpoints as users have them, derived from a good one: base classes, trainers, other libraries, old files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.exporter import damage as d

TABLE, HEAD = "model.embed_tokens.weight", "lm_head.weight"
NESTED_TABLE = "model.language_model.embed_tokens.weight"
PREPROCESSOR = "preprocessor_config.json"
STATES = ("A_log", "dt_bias")
CONVOLUTION = "model.language_model.layers.0.linear_attn.conv1d.weight"
Tensors = dict[str, torch.Tensor]
Source = tuple[str, str]
SMALL, UNTIED, THIRD, EXPERTS = (
    ("qwen2_5_vl", "small"),
    ("qwen2_vl", "deep"),
    ("qwen3_vl", "small"),
    ("qwen3_vl_moe", "small"),
)
HYBRID, HYBRID_UNTIED, HYBRID_EXPERTS = ("qwen3_5", "small"), ("qwen3_5", "deep"), ("qwen3_5_moe", "small")


@dataclass(frozen=True)
class Kind:
    """A checkpoint that is exported like its twin: how each is derived from a good one, and the user's note.

    `reference` says that transformers reads it too, and to the same model.
    """

    name: str
    source: Source
    change: d.Damage
    note: str = ""
    twin: d.Damage = d.nothing
    reference: bool = True


@dataclass(frozen=True)
class Refused:
    """A checkpoint that is not exported, and what the error says."""

    name: str
    source: Source
    change: d.Damage
    says: str


def bare(name: str) -> str:
    """The name within a model without a head: that of the tower begins with `visual`, all others have no prefix."""
    for prefix in ("model.language_model.", "model.visual.", "model."):
        if name.startswith(prefix):
            return ("visual." if prefix == "model.visual." else "") + name.removeprefix(prefix)
    return name


def named(rename: Callable[[str], str]) -> d.Damage:
    """Every tensor under another name."""

    def change(tensors: Tensors) -> None:
        for name in list(tensors):
            tensors[rename(name)] = tensors.pop(name)

    return d.tensors(change)


def base_class(name: str) -> str:
    """As Qwen2_5_VLModel and Qwen3VLModel save it."""
    inner = bare(name)
    return inner if inner.startswith("visual.") else f"language_model.{inner}"


def doubly_nested(name: str) -> str:
    inner = bare(name)
    if name == HEAD:
        return name
    return f"model.{inner}" if inner.startswith("visual.") else f"model.language_model.model.{inner}"


def compiled_within(name: str) -> str:
    return name.replace("layers.", "layers._orig_mod.").replace("blocks.", "blocks._checkpoint_wrapped_module.")


def mlx(name: str) -> str:
    inner = bare(name)
    return (
        inner.replace("visual.", "vision_tower.", 1) if inner.startswith("visual.") else f"language_model.model.{inner}"
    )


def added(**tensors: torch.Tensor) -> d.Damage:
    """More tensors; `__` in names is a dot."""
    more = {name.replace("__", "."): value for name, value in tensors.items()}
    return d.tensors(lambda values: values.update(more))


def only_head(tensors: Tensors) -> None:
    tensors[HEAD] = tensors.pop(TABLE if TABLE in tensors else NESTED_TABLE)


def no_head(tensors: Tensors) -> None:
    tensors.pop(HEAD)


def rounded(states: torch.dtype, others: torch.dtype) -> d.Damage:
    """Numbers that bfloat16 holds, in the types of the decay and the step of linear attention and of all others."""

    def change(tensors: Tensors) -> None:
        for name, value in tensors.items():
            tensors[name] = value.bfloat16().to(states if name.endswith(STATES) else others)

    return d.tensors(change)


def drafts(tensors: Tensors) -> None:
    """The head for drafts of Qwen3.5: a layer of full attention, and what it reads."""
    prefix = "model.language_model.layers.1."
    layer = {name.replace(prefix, "mtp.layers.0."): value for name, value in tensors.items() if prefix in name}
    own = {"mtp.fc.weight": torch.ones(64, 128)}
    own |= {f"mtp.{name}.weight": torch.ones(64) for name in ("norm", "pre_fc_norm_hidden", "pre_fc_norm_embedding")}
    tensors.update(own | {name: value.clone() for name, value in layer.items()})


def old_shards(here: Path) -> None:
    """Shards of another training beside the whole file, and their index."""
    old = {name: torch.zeros_like(value) for name, value in load_file(here / d.SHARD).items()}
    save_file(old, here / "model-00001-of-00001.safetensors")
    (here / d.INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(old, "model-00001-of-00001.safetensors")}))


def stale_index(content: str) -> d.Damage:
    return d.write(d.INDEX, content)


def with_bom(here: Path) -> None:
    """Files as some editors of Windows save them."""
    for name in (d.CONFIG, "generation_config.json", PREPROCESSOR, "tokenizer.json", "chat_template.jinja"):
        (here / name).write_bytes(b"\xef\xbb\xbf" + (here / name).read_bytes())


def utf16(here: Path) -> None:
    (here / d.CONFIG).write_text((here / d.CONFIG).read_text(), "utf-16")


def without(file: str, *keys: str) -> d.Damage:
    return d.edit(file, **dict.fromkeys(keys, d.REMOVE))


def quantization(**said: Any) -> d.Damage:
    return d.config(quantization_config=said)


def mlx_quantized(tensors: Tensors) -> None:
    """A linear as `mlx.nn.QuantizedLinear` stores it."""
    weight = tensors.pop(d.MLP)
    linear = d.MLP.removesuffix(".weight")
    rows, columns = weight.shape
    tensors |= {
        d.MLP: torch.zeros(rows, columns // 8, dtype=torch.uint32),
        f"{linear}.scales": torch.ones(rows, columns // 32),
        f"{linear}.biases": torch.zeros(rows, columns // 32),
    }


def packed(linear: str) -> d.Damage:
    """Replaces a linear by one of 32 columns and 8 rows in AWQ's format."""
    parts = {
        "qweight": torch.zeros(32, 1, dtype=torch.int32),
        "qzeros": torch.zeros(1, 1, dtype=torch.int32),
        "scales": torch.ones(1, 8).half(),
    }
    return d.tensors(lambda tensors: tensors.update({f"{linear}.{part}": value for part, value in parts.items()}))


def only(name: str) -> d.Damage:
    """Weights of another kind instead of safetensors."""
    return d.together(d.delete(d.SHARD), d.write(name, "weights"))


PREFIXED = r"names of \d+ tensors are read without a trainer's prefix: "
KINDS = [
    Kind("names of Qwen2_5_VLModel", SMALL, named(base_class)),
    Kind("names of Qwen3VLModel", THIRD, named(base_class)),
    Kind("names nested twice", SMALL, named(doubly_nested), reference=False),
    Kind(
        "peft's prefix", SMALL, named("base_model.model.{}".format), PREFIXED + r"base_model\.model\.", reference=False
    ),
    Kind("peft's prefix, nested", THIRD, named("base_model.model.{}".format), PREFIXED, reference=False),
    Kind("DataParallel's prefix", UNTIED, named("module.{}".format), PREFIXED + r"module\.", reference=False),
    Kind("torch.compile's prefix", SMALL, named("_orig_mod.{}".format), PREFIXED + "_orig_mod", reference=False),
    Kind("two prefixes", SMALL, named("module._orig_mod.{}".format), PREFIXED, reference=False),
    Kind("parts compiled and checkpointed", SMALL, named(compiled_within), PREFIXED, reference=False),
    Kind("a module around the model", UNTIED, named("model.{}".format), PREFIXED, reference=False),
    Kind("a module around the model, nested", THIRD, named("model.{}".format), PREFIXED, reference=False),
    Kind("tied, only lm_head", SMALL, d.tensors(only_head)),
    Kind("tied, only lm_head, nested", THIRD, d.tensors(only_head)),
    Kind(
        "untied without lm_head",
        UNTIED,
        d.tensors(no_head),
        r"no lm_head\.weight, and config\.json does not tie it: the embedding serves as head",
        d.together(d.tensors(no_head), d.config(tie_word_embeddings=True)),
        reference=False,  # which makes up a head
    ),
    Kind(
        "a head for scores",
        SMALL,
        added(score__weight=torch.ones(1, 64)),
        r"left out, as heads that answers do not go through: score\.weight",
    ),
    Kind("a head for values", SMALL, added(v_head__summary__weight=torch.ones(1, 64)), r"v_head\.summary\.weight"),
    Kind("a head for retrieval", SMALL, added(custom_text_proj__weight=torch.ones(8, 64)), r"custom_text_proj\.weight"),
    Kind(
        "a buffer of integers",
        SMALL,
        added(model__layers__0__self_attn__position_ids=torch.arange(9)),
        r"left out, as integer buffers: model\.layers\.0\.self_attn\.position_ids",
    ),
    Kind(
        "a buffer of flags", SMALL, added(model__layers__0__self_attn__masked=torch.ones(2, dtype=torch.bool)), "masked"
    ),
    Kind(
        "a stale index",
        SMALL,
        stale_index('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}'),
        r"model\.safetensors is read, and model\.safetensors\.index\.json beside it is not",
    ),
    Kind("old shards", SMALL, old_shards, r"index\.json beside it is not"),
    Kind("an index that is no index", SMALL, stale_index("[]"), "beside it is not", reference=False),
    Kind("byte order marks", SMALL, with_bom, reference=False),
    Kind("UTF-16", SMALL, utf16, reference=False),
    Kind(
        "bitsandbytes left over",
        SMALL,
        quantization(quant_method="bitsandbytes", load_in_4bit=True),
        "names bitsandbytes, but the weights are floats",
        reference=False,
    ),
    Kind("FP8 left over", SMALL, quantization(quant_method="fp8"), "names fp8, but", reference=False),
    Kind(
        "windows that no layer has",
        SMALL,
        d.text(use_sliding_window=True, sliding_window=8, max_window_layers=2, layer_types=d.REMOVE),
    ),
    Kind("windows switched off", SMALL, d.text(use_sliding_window=None, max_window_layers=0, layer_types=d.REMOVE)),
    Kind("windows of a family without", THIRD, d.text(use_sliding_window=True, max_window_layers=0)),
    Kind("as many key/value heads", THIRD, d.text(rms_norm_eps=d.REMOVE)),
    Kind("names of Qwen3_5Model", HYBRID, named(base_class)),
    Kind("names of Qwen3_5MoeModel", HYBRID_EXPERTS, named(base_class)),
    Kind("peft's prefix, hybrid", HYBRID, named("base_model.model.{}".format), PREFIXED, reference=False),
    Kind("parts compiled, hybrid", HYBRID_EXPERTS, named(compiled_within), PREFIXED, reference=False),
    Kind("a module around the model, hybrid", HYBRID, named("model.{}".format), PREFIXED, reference=False),
    Kind("tied, only lm_head, hybrid", HYBRID, d.tensors(only_head)),
    Kind(
        "untied without lm_head, hybrid",
        HYBRID_UNTIED,
        d.tensors(no_head),
        r"no lm_head\.weight, and config\.json does not tie it",
        d.together(d.tensors(no_head), d.config(tie_word_embeddings=True)),
        reference=False,
    ),
    Kind(
        "states in float32, all else in bfloat16",
        HYBRID,
        rounded(torch.float32, torch.bfloat16),
        twin=rounded(torch.float32, torch.float32),
    ),
    Kind(
        "states in bfloat16 too",
        HYBRID_EXPERTS,
        rounded(torch.bfloat16, torch.bfloat16),
        twin=rounded(torch.float32, torch.float32),
    ),
    Kind("a head for drafts", HYBRID, d.tensors(drafts), r"left out, as heads that answers do not go through: mtp\.fc"),
    Kind(
        "layers by their interval",
        HYBRID,
        d.text(layer_types=d.REMOVE, full_attention_interval=2),
    ),
    Kind("a type of states that is not read", HYBRID, d.text(mamba_ssm_dtype="float32", mlp_only_layers=[])),
]
REFUSED = [
    Refused(
        "MLX, 4 bits",
        SMALL,
        d.together(d.config(quantization={"group_size": 32, "bits": 4}), d.tensors(mlx_quantized)),
        r"config\.json: weights quantized by MLX are not supported \(export the bfloat16",
    ),
    Refused(
        "MLX, 4 bits without saying so",
        SMALL,
        d.tensors(mlx_quantized),
        r"not part of the model: .*(biases|scales).*\(the checkpoint is quantized: export the original one",
    ),
    Refused("MLX", SMALL, named(mlx), r"is a conversion for MLX \(vision_tower\.…\) \(export the original release"),
    Refused("GGUF", SMALL, only("model-Q4_K_M.gguf"), r"there are only GGUF files.*export the safetensors release"),
    Refused(
        "GGUF alone",
        SMALL,
        d.together(only("model-Q4_K_M.gguf"), d.delete(d.CONFIG)),
        r"config\.json: is missing: GGUF files are llama\.cpp's \(export the safetensors release",
    ),
    Refused(
        "a bundle",
        SMALL,
        d.rename(d.CONFIG, "bundle.json"),
        r"config\.json: is missing: this is a bundle, not a checkpoint \(export the checkpoint that it was",
    ),
    Refused("state of a training", SMALL, only("zero_to_fp32.py"), "only the state of a training.*save_pretrained"),
    Refused(
        "shards without an index",
        SMALL,
        d.rename(d.SHARD, "model-00001-of-00001.safetensors"),
        r"model\.safetensors is missing, and so is model\.safetensors\.index\.json \(download the index",
    ),
    Refused(
        "quantized lm_head",
        UNTIED,
        d.together(packed("lm_head"), quantization(quant_method="awq", group_size=32)),
        r"config\.json: a quantized lm_head is not supported \(export",
    ),
    Refused(
        "dynamic bits",
        UNTIED,
        quantization(
            quant_method="gptq", bits=4, group_size=32, dynamic={"-:.*visual.*": {}, "+:.*down.*": {"bits": 8}}
        ),
        r"quantization_config\.dynamic gives other bits to '\+:\.\*down\.\*', which is not supported \(export",
    ),
    Refused(
        "experts one by one",
        EXPERTS,
        d.together(
            packed("model.language_model.layers.0.mlp.experts.0.gate_proj"),
            quantization(quant_method="awq", group_size=32),
        ),
        r"config\.json: experts quantized one by one are not supported \(export the bfloat16 or float16 release\)",
    ),
    Refused(
        "a prefix that is not known",
        SMALL,
        named("net.inner.{}".format),
        r"missing: .*\(names begin with 'net\.inner\.', which is not known",
    ),
    Refused(
        "a LoRA adapter that is not merged",
        SMALL,
        named(lambda name: name.replace("down_proj.", "down_proj.base_layer.")),
        "merge it with peft's merge_and_unload",
    ),
    Refused(
        "untied, only lm_head",
        UNTIED,
        d.tensors(lambda tensors: tensors.pop(TABLE)),
        r'missing: model\.embed_tokens\.weight .*"tie_word_embeddings": true in config\.json',
    ),
    Refused("weights of long integers", SMALL, d.stored(d.NORM, torch.int64), r"model\.norm\.weight holds integers"),
    Refused(
        "experts one by one, hybrid",
        HYBRID_EXPERTS,
        d.together(
            packed("model.language_model.layers.0.mlp.experts.0.gate_proj"),
            quantization(quant_method="gptq", bits=4, group_size=32),
        ),
        r"config\.json: experts quantized one by one are not supported \(export the bfloat16 or float16 release\)",
    ),
    Refused(
        "MLX, hybrid", HYBRID, named(mlx), r"is a conversion for MLX \(vision_tower\.…\) \(export the original release"
    ),
    Refused(
        "a language model alone",
        HYBRID,
        d.config(model_type="qwen3_5_text"),
        r"model_type 'qwen3_5_text' is a language model without its vision tower \(export the whole qwen3_5 model\)",
    ),
    Refused(
        "a language model alone, by its weights",
        HYBRID,
        d.tensors(lambda tensors: [tensors.pop(name) for name in list(tensors) if "visual" in name]),
        r"tensors are missing: visual\..* \(a text-only or sharded part\? download the whole checkpoint\)",
    ),
    Refused(
        "no convolution",
        HYBRID,
        d.tensors(lambda tensors: tensors.pop(CONVOLUTION)),
        r"1 tensors are missing: model\.layers\.0\.linear_attn\.conv1d\.weight \(weights and config\.json are of diff",
    ),
    Refused(
        "a convolution of another size",
        HYBRID,
        d.text(linear_conv_kernel_dim=3),
        r"conv1d\.weight has shape \[160, 1, 4\], config\.json says \[160, 1, 3\]",
    ),
    Refused(
        "linear attention where there is none",
        HYBRID,
        d.text(layer_types=["linear_attention"] * 2),
        r"tensors are missing: model\.layers\.1\.linear_attn\.A_log",
    ),
    Refused("weights of doubles", SMALL, d.stored(d.NORM, torch.float64), r"model\.norm\.weight has element type F64"),
]
