"""Broken checkpoints, bundles and arguments: exit code 2, one line that names the thing, nothing left behind."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from qvl_export.cli import main as cli
from tests.exporter import damage as d

FIRST = "qwen2_5_vl", "small"
LOOP = (
    "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}"
)
SELF = "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}"
DEEP = b'{"a":' + b"[" * 100_000
EXPORT = "export", "checkpoint", "out", "--quiet"
RUN = "run", "bundle", "Read.", "--max-new-tokens", "2"
IMAGE = (*RUN, "--image", "page.png")
PDF = (*RUN, "--pdf", "page.pdf")


@dataclass(frozen=True)
class Row:
    """The damage, the expected error, and the command that reports it."""

    name: str
    says: str
    damage: d.Damage = d.nothing
    command: tuple[str, ...] = EXPORT


WEIGHTS = [
    Row("truncated shard", r"model\.safetensors: is truncated: tensor .* ends at byte", d.truncate(d.SHARD)),
    Row("truncated header", r"model\.safetensors: .* truncated", d.truncate(d.SHARD, 0.001)),
    Row("empty shard", r"model\.safetensors: .* truncated", d.truncate(d.SHARD, 0)),
    Row(
        "Git LFS pointer",
        r"model\.safetensors: is a Git LFS pointer, not the file \(git lfs pull",
        d.write(d.SHARD, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
    ),
    Row("huge header", r"model\.safetensors: .* truncated", d.raw_header(b"{}", 1 << 62)),
    Row("header is not JSON", r"model\.safetensors: has a damaged header", d.raw_header(b"x" * 64)),
    Row("header is a list", r"model\.safetensors: has a damaged header", d.raw_header(b"[1, 2]")),
    Row("header nested deeply", r"model\.safetensors: has a damaged header", d.raw_header(DEEP)),
    Row(
        "offsets beyond the file",
        r"tensor model\.norm\.weight ends at byte",
        d.offsets(d.NORM, lambda a, b: (a + (1 << 40), b + (1 << 40))),
    ),
    Row("offsets overlap", r"tensor model\.layers\.0\.mlp\.\w+_proj\.weight.*overlap", d.header(d.overlap)),
    Row(
        "offsets negative",
        r"damaged header: .* >= 0 - at .*data_offsets",
        d.offsets(d.NORM, lambda a, b: (-8, b - a - 8)),
    ),
    Row("offsets reversed", r"tensor model\.norm\.weight: offsets", d.offsets(d.NORM, lambda a, b: (b, a))),
    Row("offsets and shape disagree", r"tensor model\.norm\.weight: offsets and shape", d.entry(d.NORM, shape=[63])),
    Row("negative shape", r"damaged header: .* >= 0 - at .*shape", d.entry(d.NORM, shape=[-64])),
    Row("bytes after the last tensor", r"model\.safetensors: .* bytes after", d.append(d.SHARD, bytes(16))),
    Row("unknown element type", r"model\.norm\.weight has element type F4", d.entry(d.NORM, dtype="F4")),
    Row("weight of integers", r"model\.norm\.weight holds integers", d.entry(d.NORM, dtype="I32")),
    Row("shapes swapped", r"tensor .* offsets and shape", d.header(d.swap_shapes)),
    Row(
        "weight transposed",
        r"down_proj\.weight has shape \[96, 64\], config\.json says \[64, 96\]",
        d.tensors(lambda t: t.update({d.MLP: t[d.MLP].T.contiguous()})),
    ),
    Row("tensor missing", r"1 tensors are missing: model\.norm\.weight", d.tensors(lambda t: t.pop(d.NORM))),
    Row(
        "tower missing",
        r"missing: visual\.",
        d.tensors(lambda t: [t.pop(n) for n in list(t) if n.startswith("visual.")]),
    ),
    Row(
        "extra tensor",
        r"not part of the model: model\.extra",
        d.tensors(lambda t: t.update({"model.extra": torch.ones(2)})),
    ),
    Row(
        "name with control characters",
        r"not part of the model: model\.\\x1b\[31m extra, n0",
        d.tensors(
            lambda t: t.update({"model.\x1b[31m\nextra": torch.ones(2), **{f"n{i}": torch.ones(1) for i in range(9)}})
        ),
    ),
    Row(
        "LoRA tensors",
        r"lora_A.*merge",
        d.tensors(lambda t: t.update({"model.layers.0.mlp.up_proj.lora_A.weight": torch.ones(2)})),
    ),
    Row(
        "LoRA adapter",
        r"checkpoint: is a LoRA adapter .*merge it into acme/base with peft's merge_and_unload",
        d.adapter,
    ),
    Row(
        "LoRA adapter with the model's config.json",
        r"checkpoint: is a LoRA adapter .*merge_and_unload",
        d.together(d.delete(d.SHARD), d.write("adapter_config.json", "{}")),
    ),
    Row(
        "FP8",
        r"config\.json: weights quantized by 'fp8' are not supported .*bfloat16",
        d.together(
            d.config(quantization_config={"quant_method": "fp8", "fmt": "e4m3"}), d.stored(d.NORM, torch.float8_e4m3fn)
        ),
    ),
    Row(
        "FP8 without saying so",
        r"model\.norm\.weight has element type F8_E4M3 .*export the bfloat16 release",
        d.stored(d.NORM, torch.float8_e4m3fn),
    ),
    Row(
        "compressed-tensors",
        r"config\.json: weights quantized by 'compressed-tensors' are not supported .*bfloat16",
        d.config(quantization_config={"quant_method": "compressed-tensors", "format": "float-quantized"}),
    ),
    Row(
        "bitsandbytes",
        r"config\.json: weights quantized by 'bitsandbytes' are not supported .*bfloat16",
        d.together(
            d.config(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
            d.tensors(lambda t: t.update({d.MLP: torch.zeros(64 * 96 // 2, 1, dtype=torch.uint8)})),
        ),
    ),
    Row(
        "bitsandbytes of old",
        r"config\.json: weights quantized by 'bitsandbytes' are not supported",
        d.together(
            d.config(quantization_config={"load_in_8bit": True}),
            d.tensors(lambda t: t.update({d.MLP: t[d.MLP].to(torch.int8)})),
        ),
    ),
    Row("quantization is a list", r"quantization_config is not an object", d.config(quantization_config=[4])),
    Row(
        "AWQ for other kernels",
        r"config\.json: AWQ of version 'gemv'.*gemm",
        d.config(quantization_config={"quant_method": "awq", "version": "gemv"}),
    ),
    Row(
        "tensor twice in a header",
        r"model\.safetensors: has a damaged header: 'model\.norm\.weight' occurs twice",
        d.twice(d.NORM),
    ),
    Row("tensor in two shards", r"model\.norm\.weight is also in model.*\.safetensors", d.second_shard),
    Row("shard missing", r"model-9\.safetensors is missing", d.index('{"weight_map": {"a": "model-9.safetensors"}}')),
    Row("shard outside", r"'\.\./x\.safetensors' leaves", d.index('{"weight_map": {"a": "../x.safetensors"}}')),
    Row("shard is ..", r"'\.\.' leaves", d.index('{"weight_map": {"a": ".."}}')),
    Row("index is a list", r"index\.json: is not a JSON object", d.index("[]")),
    Row("weight map is a list", r"index\.json: has no weight_map", d.index('{"weight_map": []}')),
    Row(
        "index names more",
        r"1 tensors of the index.*: b",
        d.index('{"weight_map": {"b": "model-1.safetensors"}}'),
    ),
    Row(
        "pickled weights only",
        r"model\.safetensors is missing: .*pickled.*safe_serialization",
        d.rename(d.SHARD, "pytorch_model.bin"),
    ),
    Row("bf16 infinite", r"down_proj\.weight .*not finite", d.spoil(float("inf"), torch.bfloat16)),
    Row(
        "infinite, before calibration",
        r"down_proj\.weight .*not finite",
        d.spoil(float("inf"), torch.bfloat16),
        (*EXPORT, "--precision", "int4", "--samples", "1"),
    ),
    Row("bf16 too large", r"down_proj\.weight .*float16.*--precision fp32", d.spoil(1e5, torch.bfloat16)),
    Row("fp32 too large", r"down_proj\.weight .*float16.*--precision fp32", d.spoil(1e5, torch.float32)),
    Row("fp32 not a number", r"down_proj\.weight .*not finite", d.spoil(float("nan"), torch.float32)),
]
CONFIGS = [
    Row("config missing", r"config\.json: is missing", d.delete(d.CONFIG)),
    Row("config is not JSON", r"config\.json: is not JSON", d.write(d.CONFIG, "{'a': 1}")),
    Row("config is not text", r"config\.json: is not JSON", d.write(d.CONFIG, b"\xff\xfe\xff")),
    Row("config is a list", r"config\.json: is not a JSON object", d.write(d.CONFIG, "[1]")),
    Row("config nested deeply", r"config\.json: is not JSON", d.write(d.CONFIG, DEEP)),
    *(
        Row(f"{field} is {str(value)[:9]}", rf"config\.json: .*{field.rpartition('__')[2]}", d.text(**{field: value}))
        for field, value in (
            ("num_hidden_layers", 10**30),
            ("head_dim", 1 << 62),
            ("vocab_size", 1 << 62),
            ("num_key_value_heads", 1 << 62),
            ("max_position_embeddings", 1 << 62),
            ("rms_norm_eps", 1e300),
            ("rms_norm_eps", float("nan")),
            ("rope_parameters__rope_theta", 1e300),
            ("rope_parameters__rope_theta", float("nan")),
            ("rope_parameters__rope_theta", 10**400),
        )
    ),
    Row("token beyond all bounds", r"config\.json: .*image_token_id", d.config(image_token_id=1 << 40)),
    Row("stop token beyond all bounds", r"eos_token_id", d.edit("generation_config.json", eos_token_id=10**30)),
    *(
        Row(
            f"{field} is {value}",
            rf"preprocessor_config\.json: .*{field}",
            d.edit("preprocessor_config.json", **{field: value}),
        )
        for field, value in (
            ("image_mean", [1e308] * 3),
            ("image_mean", [0.5, float("nan"), 0.5]),
            ("image_std", [1e-300] * 3),
            ("image_std", [float("inf")] * 3),
            ("patch_size", 14.5),
            ("patch_size", float("nan")),
            ("patch_size", 1e300),
            ("min_pixels", 1 << 62),
            ("rescale_factor", float("nan")),
        )
    ),
    Row("hidden_size is text", r"config\.json: .*text_config\.hidden_size", d.text(hidden_size="64")),
    Row("text_config is a list", r"config\.json: .*text_config", d.config(text_config=[1])),
    Row("vision_config is null", r"config\.json: .*vision_config", d.config(vision_config=None)),
    Row("field missing", r"config\.json: .*num_attention_heads", d.text(num_attention_heads=d.REMOVE)),
    Row("negative depth", r"config\.json: .*vision_config\.depth", d.config(vision_config__depth=-1)),
    Row("huge depth", r"config\.json.*<= 1024 - at `vision_config\.depth`", d.config(vision_config__depth=10**9)),
    Row("huge layer count", r"config\.json.*<= 1024.*num_hidden_layers", d.text(num_hidden_layers=10**9)),
    Row("infinite epsilon", r"rms_norm_eps", d.text(rms_norm_eps=float("inf"))),
    Row("model_type unknown", r"model_type 'llava' is not supported", d.config(model_type="llava")),
    Row("model_type is a module", r"model_type 'spec' is not supported", d.config(model_type="spec")),
    Row("half of a character", r"config\.json: is not JSON", d.config(model_type="\ud800")),
    Row(
        "a value that is very long",
        r"eos_token_id is .{100,1500}$",
        d.edit("generation_config.json", eos_token_id="x" * 10**6),
    ),
    Row(
        "stop tokens without end",
        r"eos_token_id has 1,025 stop tokens \(at most 1,024\)$",
        d.edit("generation_config.json", eos_token_id=list(range(1025))),
    ),
    Row("model_type missing", r"model_type None", d.config(model_type=d.REMOVE)),
    Row("rope is llama3", r"rope type 'llama3' is not supported", d.text(rope_parameters__rope_type="llama3")),
    Row("yarn without a factor", r"missing required field `factor`", d.text(rope_parameters__rope_type="yarn")),
    Row(
        "yarn speeds up",
        r"Expected `float` >= 1\.0 - at `rope_parameters\.factor`",
        d.text(rope_parameters__rope_type="yarn", rope_parameters__factor=0.5),
    ),
    Row(
        "yarn betas",
        r"beta_slow 40\.0 is not below beta_fast 32\.0",
        d.text(rope_parameters__rope_type="yarn", rope_parameters__factor=2, rope_parameters__beta_slow=40),
    ),
    Row("mrope_section wrong", r"mrope_section \[2, 3, 4\]", d.text(rope_parameters__mrope_section=[2, 3, 4])),
    Row("mrope_section missing", r"mrope_section None", d.text(rope_parameters__mrope_section=d.REMOVE)),
    Row("rope_theta infinite", r"rope_theta", d.text(rope_parameters__rope_theta=float("inf"))),
    Row(
        "sliding window",
        r"sliding window",
        d.text(use_sliding_window=True, sliding_window=4096, max_window_layers=1, layer_types=d.REMOVE),
    ),
    Row("activation unknown", r"hidden_act 'gelu_new' is not supported", d.text(hidden_act="gelu_new")),
    Row(
        "vision activation unknown",
        r"vision hidden_act 'relu' is not supported",
        d.config(vision_config__hidden_act="relu"),
    ),
    Row("heads do not divide", r"5 attention heads do not divide hidden_size 64", d.text(num_attention_heads=5)),
    Row(
        "odd head size",
        r"config\.json: .*half of what is rotated of a head, 0",
        d.text(num_attention_heads=64, num_key_value_heads=64, rope_parameters__mrope_section=[0, 0, 0]),
    ),
    Row("full attention block beyond", r"fullatt_block_indexes", d.config(vision_config__fullatt_block_indexes=[7])),
    Row("quantized already", r"quantiz", d.config(quantization_config={"bits": 4})),
    Row("preprocessor missing", r"preprocessor_config\.json", d.delete("preprocessor_config.json")),
    Row(
        "preprocessor malformed",
        r"preprocessor_config\.json: .*image_mean",
        d.edit("preprocessor_config.json", image_mean="gray"),
    ),
    Row(
        "preprocessor bounds",
        r"preprocessor_config\.json: min_pixels 9999999",
        d.edit("preprocessor_config.json", min_pixels=9999999),
    ),
    Row(
        "processor_config is odd",
        r"processor_config\.json",
        d.together(d.delete("preprocessor_config.json"), d.write("processor_config.json", '{"image_processor": 3}')),
    ),
    Row(
        "patch size differs",
        r"vision patches \(14, 2, 2\) are not the preprocessor's",
        d.edit("preprocessor_config.json", patch_size=16),
    ),
    Row("tokenizer missing", r"tokenizer\.json is missing", d.delete("tokenizer.json")),
    Row("tokenizer corrupt", r"tokenizer\.json: is not a tokenizer", d.truncate("tokenizer.json")),
    Row("tokenizer is not text", r"tokenizer\.json: is not UTF-8", d.write("tokenizer.json", b"\xff\xfe")),
    Row("special token unknown", r"special token 99999 .*tokenizer\.json", d.config(image_token_id=99999)),
    Row(
        "no stop token", r"eos_token_id", d.together(d.delete("generation_config.json"), d.text(eos_token_id=d.REMOVE))
    ),
    Row("template missing", r"chat template", d.delete("chat_template.jinja")),
    Row(
        "template malformed",
        r"chat_template\.jinja: cannot be rendered: syntax error",
        d.write("chat_template.jinja", "{% for %}"),
    ),
    Row(
        "template endless",
        r"chat_template\.jinja: cannot be rendered: .*fuel",
        d.write("chat_template.jinja", LOOP),
    ),
    Row(
        "template that crashes the process",
        r"chat_template\.jinja: cannot be rendered: it crashes the process that tests it",
        d.write("chat_template.jinja", SELF),
    ),
    Row(
        "template of many operators",
        r"chat_template\.jinja: cannot be rendered: an expression has 90000 operators, more than 400",
        d.write("chat_template.jinja", "{{ " + "-" * 90_000 + "1 }}"),
    ),
]
NOWHERE = ("export", "no/such/checkpoint", "out", "--quiet", "--precision", "int4")
ARGUMENTS = [
    Row("OUT exists", r"out: already exists \(give --force", d.write("../out/bundle.json", "{}")),
    Row(
        "OUT is not a bundle",
        r"out: exists and is not a bundle",
        d.write("../out/notes.txt", "mine"),
        (*EXPORT, "--force"),
    ),
    Row("OUT is a file", r"out: exists and is not a bundle", d.write("../out", "mine"), (*EXPORT, "--force")),
    Row(
        "parent of OUT is a file",
        r"file/out: cannot be written",
        d.write("../file", ""),
        ("export", "checkpoint", "file/out", "--quiet"),
    ),
    Row(
        "pixel bounds",
        r"min_pixels 900000 is above max_pixels 800000",
        command=(*EXPORT, "--min-pixels", "900000", "--max-pixels", "800000"),
    ),
    Row(
        "pixel bound below a token",
        r"max_pixels 10 is too small \(an image token",
        command=(*EXPORT, "--max-pixels", "10"),
    ),
    Row(
        "max length", r"--max-length 999999 is not within the model's 8192", command=(*EXPORT, "--max-length", "999999")
    ),
    Row("target unknown", r"target 'gpu' is not supported \(supported: cpu", command=(*EXPORT, "--target", "gpu")),
    Row("precision unknown", r"precision 'int2'", command=(*EXPORT, "--precision", "int2")),
    Row(
        "vision precision unknown",
        r"vision precision 'hybrid' is not supported",
        command=(*EXPORT, "--vision-precision", "hybrid"),
    ),
    Row("pages before the checkpoint", r"nowhere: no such file", command=(*NOWHERE, "--calib", "nowhere")),
    Row(
        "block size before it",
        r"--block-size 48 is not supported \(one of 128, 64, 32, 16",
        command=(*NOWHERE, "--block-size", "48"),
    ),
    *(
        Row(f"{option[0]} without {what}", rf"{option[0]} is for {what}", command=(*EXPORT, *option))
        for what, option in (
            ("quantization", ("--samples", "64")),
            ("int8", ("--cpu", "vnni")),
            ("int4", ("--block-size", "64")),
            ("int4", ("--no-gptq-experts",)),
        )
    ),
    Row("option gone", r"--reduce-range is gone: --cpu any", command=(*EXPORT, "--reduce-range")),
    Row("processor unknown", r"--cpu.*'sse'.*'any'", command=(*EXPORT, "--cpu", "sse")),
    Row("number is a word", r"--max-pixels.*'many'", command=(*EXPORT, "--max-pixels", "many")),
    Row("option unknown", r"--fast", command=(*EXPORT, "--fast")),
    Row("OUT not given", r"OUT", command=("export", "checkpoint")),
    Row("command unknown", r"'frobnicate'", command=("frobnicate",)),
    Row(
        "checkpoint missing",
        r"no/such/checkpoint: is neither",
        command=("export", "no/such/checkpoint", "out", "--quiet"),
    ),
    Row("checkpoint missing here", r"\./missing: is neither", command=("export", "./missing", "out", "--quiet")),
    Row(
        "checkpoint is a file",
        r"config\.json: is neither",
        command=("export", "checkpoint/config.json", "out", "--quiet"),
    ),
]
BUNDLES = [
    Row("bundle missing", r"nowhere: is not a bundle directory", command=("inspect", "nowhere")),
    Row(
        "not a bundle",
        r"checkpoint: is a checkpoint, not a bundle \(export it first: qvl-export export checkpoint BUNDLE\)",
        command=("inspect", "checkpoint"),
    ),
    Row("bundle not given", r"BUNDLE", command=("inspect",)),
    Row(
        "file missing",
        r"tokenizer\.json: is missing from the bundle",
        d.delete("tokenizer.json"),
        ("inspect", "bundle"),
    ),
    Row("data truncated", r"llm\.onnx\.data: is truncated", d.truncate("llm.onnx.data"), RUN),
    Row("size changed", r"vision\.onnx: is changed", d.append("vision.onnx", b"\0"), RUN),
    Row("manifest corrupt", r"bundle\.json: is damaged", d.truncate("bundle.json"), RUN),
    Row("manifest is not text", r"bundle\.json: is damaged", d.garbage("bundle.json"), RUN),
    Row("manifest nested deeply", r"bundle\.json: is damaged", d.write("bundle.json", DEEP), RUN),
    Row(
        "manifest of the future",
        r"schema version 99.*install the",
        d.edit("bundle.json", schema_version=99),
        RUN,
    ),
    Row("manifest field unknown", r"bundle\.json: is damaged.*extra", d.edit("bundle.json", extra=1), RUN),
    Row("manifest lacks a graph", r"bundle\.json: has no graph llm", d.edit("bundle.json", graphs__llm=d.REMOVE), RUN),
    Row(
        "manifest lacks a tokenizer",
        r"tokenizer\.json.*not listed",
        d.edit("bundle.json", **{"files__tokenizer.json": d.REMOVE}),
        RUN,
    ),
    Row("file outside", r"outside the bundle: '\.\./x'", d.listed("../x"), ("inspect", "bundle")),
    Row("absolute path", r"outside the bundle: '/etc/passwd'", d.listed("/etc/passwd"), RUN),
    Row(
        "link out of the bundle",
        r"vision\.onnx\.data: is a link that leads",
        d.link_out("vision.onnx.data"),
        RUN,
    ),
    Row(
        "target from elsewhere",
        r"bundle: is for target 'npu'; this runtime has cpu",
        d.edit("bundle.json", target="npu"),
        RUN,
    ),
    Row("graph garbage", r"llm\.onnx: is not an ONNX model", d.garbage("llm.onnx"), RUN),
    Row(
        "weights beyond their file",
        r"vision\.onnx: ONNX Runtime rejects it",
        d.onnx_data("vision", offset="4398046511104"),
        RUN,
    ),
    Row(
        "weights outside the bundle",
        r"vision\.onnx: ONNX Runtime rejects it: .*[Ee]xternal data path",
        d.together(
            lambda here: shutil.copy(here / "vision.onnx.data", here.parent / "secret"),
            d.onnx_data("vision", location="../secret"),
        ),
        RUN,
    ),
    Row(
        "weights at an absolute path",
        r"vision\.onnx: ONNX Runtime rejects it: .*[Ee]xternal data path",
        d.onnx_data("vision", location="/etc/passwd"),
        RUN,
    ),
    Row("bundle's tokenizer corrupt", r"tokenizer\.json: is not a tokenizer", d.garbage("tokenizer.json"), RUN),
    Row("bundle's template garbage", r"chat_template\.jinja: cannot be read", d.garbage("chat_template.jinja"), RUN),
    Row(
        "bundle's template malformed",
        r"chat_template\.jinja: cannot be rendered",
        d.together(d.write("chat_template.jinja", "{{ nothing"), d.relist("chat_template.jinja")),
        RUN,
    ),
    Row(
        "bundle's template that crashes the process",
        r"chat_template\.jinja: cannot be rendered: it crashes the process that tests it",
        d.together(d.write("chat_template.jinja", SELF), d.relist("chat_template.jinja")),
        RUN,
    ),
]
PROMPTS = [
    Row("empty prompt", r"the prompt is empty", command=("run", "bundle")),
    Row("image is text", r"page\.png: is not an image", d.write("../page.png", "no pixels"), IMAGE),
    Row(
        "image truncated",
        r"page\.png: cannot be read: .*truncated",
        d.together(d.image(64, 64), d.truncate("../page.png", 0.6)),
        IMAGE,
    ),
    Row("image missing", r"page\.png: no such file", command=IMAGE),
    Row("image is a bomb", r"page\.png: .*decompression bomb", d.png_claiming(60_000, 60_000), IMAGE),
    Row("image is a small bomb", r"page\.png: .*decompression bomb", d.png_claiming(20_000, 20_000), IMAGE),
    Row("image too narrow", r"aspect ratio of 3000 × 10 is above 200", d.image(3000, 10), IMAGE),
    Row("PDF page beyond", r"page\.pdf: has 1 pages, got page 2", d.image(64, 64, "page.pdf"), (*PDF, "--pages", "2")),
    Row(
        "PDF pages malformed",
        r"page\.pdf: pages 'all' must be",
        d.image(64, 64, "page.pdf"),
        (*PDF, "--pages", "all"),
    ),
    Row("PDF garbage", r"page\.pdf: cannot be read as a PDF", d.write("../page.pdf", "%PDF-1.7 no"), PDF),
    Row("PDF missing", r"page\.pdf: no such file", command=PDF),
    Row("temperature negative", r"temperature must be >= 0, got -1\.0", command=(*RUN, "--temperature", "-1")),
    Row(
        "temperature not a number",
        r"temperature must be a finite number",
        command=(*RUN, "--temperature", "nan"),
    ),
    Row("temperature is a word", r"--temperature.*'hot'", command=(*RUN, "--temperature", "hot")),
    Row("top_p zero", r"top_p must be > 0 and <= 1, got 0\.0", command=(*RUN, "--top-p", "0")),
    Row(
        "seed negative",
        r"seed must be .* got -1",
        command=(*RUN, "--temperature", "1", "--seed", "-1"),
    ),
    Row("prompt too long", r"do not fit the maximum length of 8192", command=("run", "bundle", "word " * 9000)),
    Row("answer too long", r"do not fit the maximum length of 8192", command=(*RUN[:3], "--max-new-tokens", "9000")),
    Row("placeholder in the prompt", r"placeholders.*<\|image_pad\|>", command=("run", "bundle", "a <|image_pad|> b")),
    Row("frame rate zero", r"fps must be >= 0\.01", d.image(64, 64), (*RUN, "--video", "page.png", "--fps", "0")),
    Row(
        "frames differ",
        r"frames of the video differ",
        d.together(d.image(64, 64), d.image(96, 64, "b.png")),
        (*RUN, "--video", "*.png"),
    ),
    Row(
        "frames one by one",
        r"--video takes one name, b\.png is another: write .*--video 'frames/\*\.png'",
        d.together(d.image(64, 64), d.image(64, 64, "b.png")),
        ("run", "bundle", "--video", "page.png", "b.png", "What happens?"),
    ),
    Row("bench of nothing", r"nowhere: is not a bundle", command=("bench", "nowhere")),
]
ROWS = WEIGHTS + CONFIGS + ARGUMENTS + BUNDLES + PROMPTS
REAL = ["truncated shard", "command unknown", "graph garbage", "image is a bomb"]


@pytest.fixture
def prepare(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    checkpoint: Callable[[str, str], Path],
    bundle: Callable[[str, str, str], Path],
) -> Callable[[Row], None]:
    """Changes to a directory with `checkpoint` or `bundle`, whichever the row's command takes, and damages it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)

    def act(row: Row) -> None:
        shutil.copytree(checkpoint(*FIRST), "checkpoint")
        if row.command[0] != "export":
            shutil.copytree(bundle(*FIRST, "fp16"), "bundle")
        row.damage(tmp_path / ("checkpoint" if row.command[0] == "export" else "bundle"))

    return act


def listing(directory: Path) -> dict[str, str]:
    """Every path below a directory, with the hash of its content."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "-"
        for path in sorted(directory.rglob("*"))
    }


def assert_one_line(row: Row, code: int | str | None, errors: str) -> None:
    """Exit code 2 and one line that says what the row expects."""
    assert code == 2, errors
    assert errors.count("\n") == 1 and errors.startswith("error: "), errors
    assert re.search(row.says, errors), errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_broken_input_is_one_line(
    row: Row,
    prepare: Callable[[Row], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    prepare(row)
    before = listing(tmp_path)
    monkeypatch.setattr(sys, "argv", ["qvl-export", *row.command])
    capfd.readouterr()
    with pytest.raises(SystemExit) as exit:
        cli.main()
    assert_one_line(row, exit.value.code, capfd.readouterr().err)
    assert listing(tmp_path) == before


@pytest.mark.slow
@pytest.mark.parametrize("row", [row for row in ROWS if row.name in REAL], ids=lambda row: row.name)
def test_broken_input_of_the_real_command(row: Row, prepare: Callable[[Row], None], tmp_path: Path) -> None:
    prepare(row)
    before = listing(tmp_path)
    command = [str(Path(sys.executable).parent / "qvl-export"), *row.command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert_one_line(row, done.returncode, done.stderr)
    assert listing(tmp_path) == before


def test_names_of_rows_are_unique() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert set(REAL) <= {row.name for row in ROWS}
