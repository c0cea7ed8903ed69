"""AWQ checkpoints are used bit for bit: against a packer of the published format, and against the decoded weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from qvl_export import ExportPlan, export
from qvl_export.checkpoint.directory import Checkpoint
from qvl_export.checkpoint.quantized.awq import AwqConfig, read_config
from qvl_export.checkpoint.quantized.detect import quantized_linears
from qvl_export.errors import CheckpointError, ConfigError
from qvl_runtime.answers.generate import GenerationStats
from qvl_runtime.model import load
from tests.exporter.test_parity import cosine, image
from tests.plans import export_plan

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""The column, of eight, in each four bits of a word, lowest first (AutoAWQ's `order_map`)."""
CONFIG: dict[str, Any] = {
    "quant_method": "awq",
    "bits": 4,
    "group_size": 32,
    "zero_point": True,
    "version": "gemm",
    "modules_to_not_convert": ["visual"],
}
Tensors = dict[str, np.ndarray]
Checkpoints = Callable[[str, str], Path]


def pack(codes: np.ndarray) -> np.ndarray:
    """Codes [rows, N] → int32 [rows, N/8], word by word as the format's description has it."""
    words = np.zeros((len(codes), codes.shape[1] // 8), np.uint64)
    for word in range(words.shape[1]):
        for nibble, column in enumerate(ORDER):
            words[:, word] |= codes[:, 8 * word + column].astype(np.uint64) << np.uint64(4 * nibble)
    return words.astype(np.uint32).view(np.int32)


def quantized(name: str, rows: int, columns: int, group: int, seed: int) -> tuple[Tensors, np.ndarray]:
    """Random parts of a linear, and the weight [N, K] that they stand for."""
    rng = np.random.default_rng(seed)
    codes, zeros = rng.integers(0, 16, (columns, rows)), rng.integers(0, 16, (columns // group, rows))
    scales = (rng.uniform(0.5, 1.5, zeros.shape) * 0.2 * columns**-0.5).astype(np.float16)
    spread = np.arange(columns) // group
    weight = (codes - zeros[spread]).astype(np.float32) * scales[spread].astype(np.float32)
    return {f"{name}.qweight": pack(codes), f"{name}.qzeros": pack(zeros), f"{name}.scales": scales}, weight.T.copy()


def is_decoder_linear(name: str) -> bool:
    ends = "_proj.weight", "in_proj_qkv.weight", "in_proj_z.weight"
    return "layers." in name and name.endswith(ends) and not name.startswith("visual.")


def twins(source: Path, out: Path) -> tuple[Path, Path, Tensors]:
    """Checkpoints with the same random decoder linears, in AWQ and in float32, and their weights by name."""
    tensors = load_file(source / "model.safetensors")
    packed, floats, weights = {}, {}, {}
    for seed, (name, value) in enumerate(sorted(tensors.items())):
        if is_decoder_linear(name):
            linear = name.removesuffix(".weight")
            parts, weights[linear] = quantized(linear, *value.shape, group=32, seed=seed)
            packed |= parts
            floats[name] = weights[linear]
        else:
            packed[name] = floats[name] = value
    for directory, values in ((out / "awq", packed), (out / "floats", floats)):
        shutil.copytree(source, directory)
        save_file(
            {name: np.ascontiguousarray(value) for name, value in values.items()}, directory / "model.safetensors"
        )
    config = json.loads((source / "config.json").read_text())
    (out / "awq" / "config.json").write_text(json.dumps(config | {"quantization_config": CONFIG}))
    return out / "awq", out / "floats", weights


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5"])
def test_linears_and_logits(checkpoint: Checkpoints, family: str, tmp_path: Path) -> None:
    """The decoder's linears to the bit; logits those of the decoded weights, exactly and as shipped."""
    awq, floats, weights = twins(checkpoint(family, "small"), tmp_path)
    linears = quantized_linears(Checkpoint(awq))
    assert len(linears) == len(weights) > 0
    for name, weight in weights.items():
        published = name.replace("model.language_model.", "model.")
        assert np.array_equal(linears[published].read().dequantize(), weight), name
    export(ExportPlan(floats, tmp_path / "reference", precision="fp32"))
    export(export_plan(awq, tmp_path / "exact", precision="fp32", accuracy_level=0))
    expected, exact = (logits(tmp_path / name) for name in ("reference", "exact"))
    assert np.abs(exact - expected).max() <= 1e-3 * np.abs(expected).max()
    for target in ("cpu", "portable"):
        manifest = export(ExportPlan(awq, tmp_path / target, target=target))
        assert set(manifest.graphs["llm"].linears.values()) == {"int4 in blocks of 32"}
        assert cosine(logits(tmp_path / target), expected) >= 0.999


def logits(bundle: Path) -> np.ndarray:
    model = load(bundle, threads=1)
    content = [{"type": "image", "image": image(100, 60, 1)}, {"type": "text", "text": "Read the text."}]
    prompt = model.prompt([{"role": "user", "content": content}])
    return model.decoder.prefill(prompt, np.arange(len(prompt.ids)), GenerationStats())


@pytest.mark.parametrize("group_size", [16, 32, 64, 128, -1])
def test_every_size_of_groups(tmp_path: Path, group_size: int) -> None:
    columns = 640
    parts, weight = quantized("x", 24, columns, columns if group_size == -1 else group_size, seed=group_size + 1)
    save_file(parts, tmp_path / "model.safetensors")
    linear = AwqConfig(group_size=group_size).linear("x", Checkpoint(tmp_path).tensors)
    assert np.array_equal(linear.read().dequantize(), weight)
    assert linear.format() == linear.read().format
    assert (linear.rows, linear.columns) == weight.shape


@pytest.mark.parametrize("names", [{}, {"bits": "w_bit", "group_size": "q_group_size", "version": "format"}])
def test_names_in_configurations(names: dict[str, str]) -> None:
    """transformers 4 and 5, and AutoAWQ's own."""
    raw = {names.get(key, key): value for key, value in (CONFIG | {"version": "GEMM"}).items()}
    config = read_config(raw, Path("config.json"))
    assert (config.bits, config.group_size, config.packing) == (4, 32, "gemm")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "gemv"}, "'gemv'"),
        ({"format": "marlin", "version": None}, "'marlin'"),
        ({"zero_point": False}, "zero_point false"),
        ({"bits": 8}, "8 bits"),
        ({"group_size": 48}, "groups of 48"),
        ({"bits": "four"}, "bits"),
    ],
)
def test_configurations_that_cannot_be_used(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config({**CONFIG, **change}, Path("config.json"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scales": None}, "lacks scales"),
        ({"qzeros": None}, "lacks qzeros"),
        ({"scales": np.ones((3, 24), np.float16)}, "do not fit"),
        ({"qzeros": np.zeros((8, 4), np.int32)}, "do not fit"),
        ({"scales": np.full((8, 24), np.inf, np.float16)}, "scales are not finite"),
        ({"qweight": np.zeros((256, 3), np.float32)}, "qweight is float32"),
        ({"qweight": np.zeros((250, 3), np.int32)}, "do not fit"),
    ],
)
def test_damaged_linears_are_refused(tmp_path: Path, changes: dict[str, np.ndarray | None], message: str) -> None:
    parts, _ = quantized("x", 24, 256, 32, seed=0)
    for part, value in changes.items():
        parts.pop(f"x.{part}")
        if value is not None:
            parts[f"x.{part}"] = value
    save_file(parts, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        AwqConfig(group_size=32).linear("x", Checkpoint(tmp_path).tensors).read()
