"""GPTQ checkpoints are used bit for bit: against a naive decoder, and against transformers on the decoded weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.numpy_helper import to_array
from safetensors.numpy import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel

from qvl_export import ExportPlan, export
from qvl_export.checkpoint.directory import Checkpoint
from qvl_export.checkpoint.quantized.detect import quantized_linears
from qvl_export.checkpoint.quantized.gptq import GptqConfig, read_config
from qvl_export.errors import CheckpointError, ConfigError
from qvl_runtime.answers.generate import GenerationStats
from qvl_runtime.model import Model, load
from qvl_runtime.packing import unpack_nibbles
from tests.exporter.test_parity import cosine, image, oracle_inputs
from tests.plans import export_plan

EXAMPLES = sorted(path for path in (Path(__file__).parent / "gptq").iterdir() if path.is_dir())
examples = pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)


def naive_decode(tensors: dict[str, np.ndarray], name: str, bits: int, minus_one: bool) -> np.ndarray:
    """The weight [N, K], element by element as the format's description has it."""
    qweight, qzeros, scales = (tensors[f"{name}.{part}"] for part in ("qweight", "qzeros", "scales"))
    group = tensors[f"{name}.g_idx"]
    per_word, mask = 32 // bits, (1 << bits) - 1
    weight = np.empty((qweight.shape[1], len(group)), np.float32)
    for k in range(len(group)):
        for n in range(len(weight)):
            code = (int(qweight[k // per_word, n]) >> (bits * (k % per_word))) & mask
            zero = (int(qzeros[group[k], n // per_word]) >> (bits * (n % per_word))) & mask
            weight[n, k] = np.float32(code - zero - minus_one) * np.float32(scales[group[k], n])
    return weight


@pytest.fixture(scope="module")
def decoded() -> dict[Path, dict[str, np.ndarray]]:
    """Every quantized linear of every example, decoded naively."""
    result = {}
    for example in EXAMPLES:
        tensors = load_file(example / "model.safetensors")
        names = [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]
        result[example] = {name: naive_decode(tensors, name, 4, minus_one=True) for name in names}
    return result


def published(name: str) -> str:
    return name.replace("model.language_model.", "model.")


@pytest.mark.slow
@examples
def test_linears_are_bit_equal(example: Path, decoded: dict[Path, dict[str, np.ndarray]]) -> None:
    linears = quantized_linears(Checkpoint(example))
    assert {published(name) for name in decoded[example]} == set(linears)
    for name, weight in decoded[example].items():
        assert np.array_equal(linears[published(name)].read().dequantize(), weight), name


@examples
def test_bundle_holds_the_same_bits(example: Path, decoded: dict[Path, dict[str, np.ndarray]], tmp_path: Path) -> None:
    export(ExportPlan(example, tmp_path / "b"))
    model = onnx.load(tmp_path / "b" / "llm.onnx")
    stored = {tensor.name: to_array(tensor) for tensor in model.graph.initializer}
    for name, weight in decoded[example].items():
        parts = {part: stored.get(f"{published(name)}.{part}") for part in ("codes", "scales", "zeros", "permutation")}
        codes = unpack_nibbles(parts["codes"], 32).astype(np.float32)
        blocks = codes.shape[1]
        zeros = 8 if parts["zeros"] is None else unpack_nibbles(parts["zeros"], blocks)[..., None].astype(np.float32)
        values = ((codes - zeros) * parts["scales"].astype(np.float32)[..., None]).reshape(weight.shape)
        order = np.arange(weight.shape[1]) if parts["permutation"] is None else parts["permutation"]
        assert np.array_equal(values, weight[:, order]), name


def oracle(example: Path, decoded: dict[str, np.ndarray]) -> PreTrainedModel:
    """The float model of transformers with the decoded weights."""
    config = AutoConfig.from_pretrained(example)
    del config.quantization_config
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32).eval()
    tensors = load_file(example / "model.safetensors")
    state = {
        name: torch.from_numpy(value.astype(np.float32))
        for name, value in tensors.items()
        if "q" not in name.rpartition(".")[2]
    }
    state = {name: value for name, value in state.items() if not name.endswith((".scales", ".g_idx"))}
    state |= {f"{name}.weight": torch.from_numpy(weight) for name, weight in decoded.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not missing
    assert not unexpected
    return model


def both_logits(model: Model, theirs: PreTrainedModel) -> tuple[np.ndarray, np.ndarray]:
    content = [{"type": "image", "image": image(100, 60, 1)}, {"type": "text", "text": "Read the text."}]
    prompt = model.prompt([{"role": "user", "content": content}])
    with torch.no_grad():
        expected = theirs(**oracle_inputs(model, prompt)).logits[0].numpy()
    return model.decoder.prefill(prompt, np.arange(len(prompt.ids)), GenerationStats()), expected


@examples
def test_logits(example: Path, decoded: dict[Path, dict[str, np.ndarray]], tmp_path: Path) -> None:
    theirs = oracle(example, decoded[example])
    export(export_plan(example, tmp_path / "exact", precision="fp32", accuracy_level=0))
    ours, expected = both_logits(load(tmp_path / "exact", threads=1), theirs)
    assert np.abs(ours - expected).max() <= 1e-3 * np.abs(expected).max()
    export(ExportPlan(example, tmp_path / "shipped"))
    shipped, expected = both_logits(load(tmp_path / "shipped", threads=1), theirs)
    assert cosine(shipped, expected) >= 0.999


def pack(codes: np.ndarray, bits: int, axis: int) -> np.ndarray:
    """Codes → int32 words along `axis`, lowest bits first."""
    moved = np.moveaxis(codes, axis, -1).astype(np.uint64)
    words = moved.reshape(*moved.shape[:-1], -1, 32 // bits)
    packed = sum(words[..., i] << np.uint64(bits * i) for i in range(32 // bits))
    return np.moveaxis(np.asarray(packed).astype(np.uint32).view(np.int32), -1, axis)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group_size", [32, 128, -1])
@pytest.mark.parametrize("checkpoint_format", ["gptq", "gptq_v2"])
@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("desc_act", [True, False])
def test_every_variant_of_the_format(
    tmp_path: Path, bits: int, group_size: int, checkpoint_format: str, sym: bool, desc_act: bool
) -> None:
    rng, rows, columns = np.random.default_rng(bits + group_size), 16, 256
    size = columns if group_size == -1 else group_size
    group = np.arange(columns) // size
    group = rng.permutation(group) if desc_act else group
    codes = rng.integers(0, 1 << bits, (columns, rows))
    low = 1 if checkpoint_format == "gptq" else 0
    zeros = (
        np.full((columns // size, rows), 1 << (bits - 1))
        if sym
        else rng.integers(low, 1 << bits, (columns // size, rows))
    )
    scales = rng.random((columns // size, rows)).astype(np.float16)
    save_file(
        {
            "x.qweight": np.ascontiguousarray(pack(codes, bits, 0)),
            "x.qzeros": np.ascontiguousarray(pack(zeros - low, bits, 1)),
            "x.scales": scales,
            "x.g_idx": group.astype(np.int32),
        },
        tmp_path / "model.safetensors",
    )
    config = GptqConfig(bits, group_size, checkpoint_format=checkpoint_format, sym=sym, desc_act=desc_act)
    linear = config.linear("x", Checkpoint(tmp_path).tensors)
    expected = (codes - zeros[group]).astype(np.float32) * scales[group].astype(np.float32)
    assert np.array_equal(linear.read().dequantize(), expected.T)
    assert linear.format().permuted == (desc_act and group_size != -1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"checkpoint_format": "marlin"}, "checkpoint_format 'marlin'"),
        ({"bits": 3}, "3 bits"),
        ({"group_size": 48}, "groups of 48"),
        ({"bits": "four"}, "bits"),
    ],
)
def test_configurations_that_cannot_be_used(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config({"bits": 4, "group_size": 32, **change}, Path("config.json"))


def damaged(tmp_path: Path, **changes: np.ndarray | None) -> Path:
    """The first example with tensors of one linear replaced, or dropped if None."""
    out = tmp_path / "damaged"
    shutil.copytree(EXAMPLES[0], out)
    tensors = load_file(out / "model.safetensors")
    name = "model.language_model.layers.0.mlp.down_proj"
    for part, value in changes.items():
        tensors.pop(f"{name}.{part}")
        if value is not None:
            tensors[f"{name}.{part}"] = value
    save_file(tensors, out / "model.safetensors")
    return out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scales": None}, "lacks scales"),
        ({"scales": np.ones((3, 128), np.float16)}, "do not fit"),
        ({"g_idx": np.zeros(256, np.int32)}, "does not sort columns"),
        ({"qzeros": np.full((8, 16), 0x11111111, np.int32)}, "zero points differ"),
        ({"qweight": None}, "missing"),
    ],
)
def test_damaged_linears_are_refused(tmp_path: Path, changes: dict[str, np.ndarray | None], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        export(ExportPlan(damaged(tmp_path, **changes), tmp_path / "b"))
    assert not (tmp_path / "b").exists()


def test_quantize_config_beside_the_checkpoint_is_enough(tmp_path: Path) -> None:
    """Old auto-gptq checkpoints keep it in a file of its own."""
    out = tmp_path / "old"
    shutil.copytree(EXAMPLES[0], out)
    config = json.loads((out / "config.json").read_text())
    del config["quantization_config"]
    (out / "config.json").write_text(json.dumps(config))
    assert len(quantized_linears(Checkpoint(out))) == len(quantized_linears(Checkpoint(EXAMPLES[0])))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"g_idx": np.minimum(np.arange(256) // 30, 7).astype(np.int32)}, "does not sort columns"),
        ({"g_idx": (np.arange(256) // 32 + 100).astype(np.int32)}, "does not sort columns"),
        ({"g_idx": (np.arange(256) // 32).astype(np.float32)}, "g_idx is float32"),
        ({"g_idx": np.zeros(8, np.int32)}, "do not fit"),
        ({"scales": np.full((8, 128), np.inf, np.float16)}, "scales are not finite"),
        ({"scales": np.ones((8, 128), np.int32)}, "scales is int32"),
        ({"scales": np.full((8, 128), 1e6, np.float32)}, "scales are not finite in float16"),
        ({"qweight": np.zeros((32, 128), np.float32)}, "qweight is float32"),
        ({"qweight": np.zeros(32, np.int32)}, "of 1 dimensions"),
    ],
)
def test_linears_that_contradict_their_declaration(
    tmp_path: Path, changes: dict[str, np.ndarray | None], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        export(ExportPlan(damaged(tmp_path, **changes), tmp_path / "b"))
