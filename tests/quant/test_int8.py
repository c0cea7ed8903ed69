"""W8A8: exact integer products per token on every CPU, and scales moved into places where they do no harm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from safetensors.numpy import load_file, save_file

from qvl_export import ExportPlan, export
from qvl_export.evaluate.trace.blame import BlamePlan, blame
from qvl_export.qtensor import Activations, QTensor
from qvl_export.quant.calibration.layer_session import open_session
from qvl_export.quant.calibration.layerwise import _per_tensor
from qvl_export.quant.output_error import round_per_tensor, round_per_token, sqnr
from qvl_export.quant.schemes import Options, find
from qvl_export.quant.statistics import Collector, Statistics
from qvl_export.targets import lower
from qvl_runtime.bundle import read_manifest
from qvl_runtime.manifest import CPUS, EXACT_EVERYWHERE
from qvl_runtime.model import Model, load
from tests.heldout import HELDOUT, divergence, items
from tests.oracles.tiny import FAMILIES, REFERENCE
from tests.plans import export_plan
from tests.quant.layers import save_linear

RNG = np.random.default_rng(0)


def statistics(tokens: np.ndarray) -> Statistics:
    collector = Collector("x", 1, hessian=False)
    collector.add(tokens)
    return collector.statistics()


def linear_session(tensor: QTensor, bias: np.ndarray | None, path: Path) -> ort.InferenceSession:
    """One quantized linear on `cpu`, x [1, S, K] → y."""
    save_linear(lower("cpu", "fp32"), tensor, bias, path)
    return open_session(path)


@pytest.mark.parametrize("columns", [64, 3420, 1176])
@pytest.mark.parametrize("cpu", ["any", "vnni"])
def test_the_kernel_computes_the_layout(tmp_path: Path, columns: int, cpu: str) -> None:
    """Against exact integer arithmetic in float64; same-signed rows would saturate u8 × s8 in 16 bits."""
    weight = RNG.standard_normal((48, columns)).astype(np.float32)
    weight[0] = np.abs(weight).max()
    bias = RNG.standard_normal(48).astype(np.float32)
    tensor = find("int8", Options(cpu=cpu)).quantize(weight, None)
    x = RNG.standard_normal((9, columns)).astype(np.float32)
    x[1], x[2], x[3] = np.abs(x[1]) + 3, 0, x[3] * 1e-4
    y = linear_session(tensor, bias, tmp_path / "m.onnx").run(None, {"x": x[None]})[0][0]
    expected = round_per_token(x).astype(np.float64) @ tensor.dequantize().astype(np.float64).T + bias
    assert np.abs(y - expected).max() < 1e-4 * np.abs(expected).max()
    assert np.array_equal(y[2], bias)


IMAGES = {
    "both signs": lambda x: x,
    "never negative": lambda x: np.abs(x) + 3,
    "never positive": lambda x: -np.abs(x),
    "zeros": np.zeros_like,
    "small": lambda x: x * np.float32(1e-6),
}


@pytest.mark.parametrize("kind", IMAGES)
@pytest.mark.parametrize("cpu", ["any", "vnni"])
@pytest.mark.parametrize("biased", [False, True])
def test_the_kernel_rounds_the_tokens_of_an_image_together(tmp_path: Path, kind: str, cpu: str, biased: bool) -> None:
    """Against exact integer arithmetic in float64, for all inputs a vision tower may meet."""
    draw = np.random.default_rng(1)
    weight, bias = (draw.standard_normal(shape).astype(np.float32) for shape in ((48, 160), 48))
    weight[0] = np.abs(weight).max()
    tensor = find("int8", Options(cpu=cpu)).quantize(weight, None).with_inputs_per_tensor()
    x = IMAGES[kind](draw.standard_normal((1, 18, 160)).astype(np.float32))
    y = linear_session(tensor, bias if biased else None, tmp_path / "m.onnx").run(None, {"x": x})[0]
    seen = round_per_tensor(x.reshape(-1, 160), float(np.abs(x).max())).reshape(x.shape)
    assert np.abs(seen - x).max() <= np.ptp(np.append(x, 0)) / 255 * 0.501
    expected = seen.astype(np.float64) @ tensor.dequantize().astype(np.float64).T + (bias if biased else 0)
    assert np.abs(y - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(("loud", "together"), [(1, True), (100, False)])
def test_tokens_share_a_scale_if_they_are_alike(loud: float, together: bool) -> None:
    """A token of a hundred times the size takes the others' precision from them."""
    tokens = RNG.uniform(-1, 1, (64, 40)).astype(np.float32)
    weight = RNG.standard_normal((8, 40)).astype(np.float32)
    tokens[5] *= loud
    tensor = find("int8", Options()).quantize(weight, None)
    seen = statistics(tokens[np.arange(64) != 5])._replace(largest=np.abs(tokens).max(axis=0))
    chosen, level = _per_tensor(weight, tensor, seen, sqnr(weight, tensor, seen))
    assert (chosen.format.activations is Activations.INT8_PER_TENSOR) == together
    assert level == sqnr(weight, chosen, seen)


def test_a_token_alone_gives_the_same_bits(tmp_path: Path) -> None:
    """Batch invariance, which prefix reuse needs: one token of a thousand times the size changes no other."""
    weight = RNG.standard_normal((32, 96)).astype(np.float32)
    session = linear_session(find("int8", Options()).quantize(weight, None), None, tmp_path / "m.onnx")
    x = RNG.standard_normal((1, 20, 96)).astype(np.float32)
    x[0, 4] *= 1000
    together = session.run(None, {"x": x})[0]
    alone = [session.run(None, {"x": x[:, i : i + 1]})[0] for i in range(20)]
    assert np.array_equal(together, np.concatenate(alone, axis=1))


@pytest.mark.parametrize("cpu", CPUS)
def test_codes_are_the_nearest_of_a_symmetric_range(cpu: str) -> None:
    weight = RNG.standard_normal((7, 33)).astype(np.float32)
    weight[3] = 0
    tensor = find("int8", Options(cpu=cpu)).quantize(weight, None)
    pairs = [abs(row[k : k + 2].sum()) for row in weight for k in range(0, 33, 2)]  # a sum of two signs is no pair's
    largest = np.abs(weight).max(1, keepdims=True)
    if cpu in EXACT_EVERYWHERE:
        largest = np.maximum(largest, np.reshape(pairs, (7, -1)).max(1, keepdims=True))
    assert np.allclose(tensor.scales, np.maximum(largest / 127, 1e-30))
    assert (np.abs(tensor.dequantize() - weight) <= tensor.scales / 2 * 1.0001).all()
    assert np.array_equal(tensor.dequantize()[3], np.zeros(33))
    assert tensor.codes.min() >= 1


HEAVY = {
    "normal": lambda shape: RNG.standard_normal(shape),
    "heavy tails": lambda shape: RNG.standard_t(2, shape),
    "one sign": lambda shape: np.abs(RNG.standard_normal(shape)),
    "all the same": np.ones,
    "halves": lambda shape: RNG.integers(-2, 3, shape) / 2,
    "tiny": lambda shape: RNG.standard_normal(shape) * 1e-30,
}


def worst_pairs(codes: np.ndarray) -> np.ndarray:
    """The largest sum of columns 2i and 2i + 1 that activations from 0 to 255 make of signed codes [N, K]."""
    whole = np.pad(codes, ((0, 0), (0, codes.shape[1] % 2))).reshape(len(codes), -1, 2) * 255
    return np.stack([np.maximum(whole, 0).sum(-1), np.minimum(whole, 0).sum(-1)])


@pytest.mark.parametrize("kind", HEAVY)
@pytest.mark.parametrize("columns", [1, 2, 3, 96, 1177])
@pytest.mark.parametrize("cpu", EXACT_EVERYWHERE)
def test_no_two_products_leave_sixteen_bits(kind: str, columns: int, cpu: str) -> None:
    weight = HEAVY[kind]((64, columns)).astype(np.float32)
    codes = find("int8", Options(cpu=cpu)).quantize(weight, None).codes.astype(np.int64) - 128
    sums = worst_pairs(codes)
    assert sums.max(initial=0) <= 32767 and sums.min(initial=0) >= -32768
    assert (np.abs(codes).max(axis=1) >= 63)[np.abs(weight).max(axis=1) > 1e-20].all(), "no coarser than 7 bits"


def test_codes_for_other_processors_may_leave_them() -> None:
    weight = np.ones((1, 8), np.float32)
    codes = find("int8", Options(cpu="vnni")).quantize(weight, None).codes.astype(np.int64) - 128
    assert worst_pairs(codes).max() == 2 * 255 * 127


@pytest.mark.parametrize("tokens", [1, 2, 7, 50])
@pytest.mark.parametrize("columns", [64, 1177, 3420])
def test_the_default_is_exact_in_every_host(tmp_path: Path, tokens: int, columns: int) -> None:
    """To the bit in sessions with and without the option; on x86 without VNNI these rows would saturate in 8 bits."""
    weight = RNG.uniform(0.5, 1, (48, columns)).astype(np.float32)
    weight[::2] *= -1
    tensor = find("int8", Options()).quantize(weight, None)
    save_linear(lower("cpu", "fp32"), tensor, None, tmp_path / "m.onnx")
    x = RNG.uniform(0.9, 1, (1, tokens, columns)).astype(np.float32)
    found = []
    for option in "01":
        options = ort.SessionOptions()
        options.add_session_config_entry("session.x64quantprecision", option)
        session = ort.InferenceSession(tmp_path / "m.onnx", options, providers=["CPUExecutionProvider"])
        found.append(session.run(None, {"x": x})[0])
    expected = round_per_token(x[0]).astype(np.float64) @ tensor.dequantize().astype(np.float64).T
    assert np.array_equal(*found)
    assert np.abs(found[0][0] - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_every_family_stays_close_to_float(
    checkpoint: Callable[[str, str], Path],
    model: Callable[[str, str, str], Model],
    tmp_path: Path,
    family: str,
    precision: str,
) -> None:
    """Random tiny towers are worse than trained ones, but wrong folds would be far off."""
    plan = export_plan(
        checkpoint(family, "deep"), tmp_path / "b", precision=precision, calib=HELDOUT, samples=4, accuracy_level=0
    )
    export(plan)
    ours, exact = load(tmp_path / "b", threads=1), model(family, "deep", "fp32")
    page = next(items("ocr")).image
    one, other = exact.encode(page), ours.encode(page)
    assert np.linalg.norm(one - other) < 0.05 * np.linalg.norm(one)


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("int8") / "bundle"
    export(export_plan(REFERENCE, out, precision="int8", calib=HELDOUT, samples=8))
    return out


@pytest.mark.slow
def test_int8_reads_like_float(reference_bundle: Path, int8: Path) -> None:
    entry = read_manifest(int8).graphs
    assert entry["vision"].precision == "int8 × int8, int8 × int8 per tensor, else fp16"
    assert entry["llm"].precision == "int8 in blocks of 128, int8 × int8, else fp16"
    assert divergence(load(reference_bundle, threads=1), load(int8, threads=1)) < 0.001


@pytest.mark.slow
def test_blame_treats_all_linears_alike(reference_bundle: Path, int8: Path) -> None:
    """Though `up_proj` is divided channel by channel, and scaled only after the product that it goes into."""
    page = HELDOUT / "simple_0001.png"
    found = blame(BlamePlan(reference_bundle, int8, (page,), "Read the text.", into="llm.layers.0", threads=1))
    levels = {stage.name.rpartition(".")[2]: stage.all.sqnr for stage in found.linears}
    assert list(levels) == [f"{part}_proj" for part in ("q", "k", "v", "o", "gate", "up", "down")]
    assert found.first_linear is None and min(levels.values()) > 25


def twin(target: Path) -> Path:
    """The reference checkpoint, gains of a few channels × 50 and the next weights divided: the same function."""
    tensors = {name: value.astype(np.float32) for name, value in load_file(REFERENCE / "model.safetensors").items()}
    followers = {
        "input_layernorm": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        "post_attention_layernorm": ["mlp.gate_proj", "mlp.up_proj"],
        "norm1": ["attn.qkv"],
        "norm2": ["mlp.gate_proj", "mlp.up_proj"],
    }
    for name in list(tensors):
        block, _, norm = name.removesuffix(".weight").rpartition(".")
        for follower in followers.get(norm, []):
            tensors[f"{block}.{follower}.weight"][:, CHANNELS] /= 50
        if norm in followers:
            tensors[name][CHANNELS] *= 50
    target.mkdir()
    for file in REFERENCE.iterdir():
        if file.suffix in (".json", ".jinja"):
            (target / file.name).write_bytes(file.read_bytes())
    save_file(tensors, target / "model.safetensors")
    return target


CHANNELS = [5, 50, 101]


@pytest.mark.slow
def test_an_outlier_twin_loses_nothing(reference_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without moving scales W8A8 fails on it; with it, it is as good as on the reference checkpoint."""
    plan = {"precision": "int8", "samples": 24}  # of the built-in pages, as shipped
    source = twin(tmp_path / "twin")
    export(ExportPlan(source, tmp_path / "float"))
    export(export_plan(source, tmp_path / "ours", **plan))
    monkeypatch.setattr("qvl_export.quant.calibration.smoothquant.STRENGTHS", ())
    monkeypatch.setattr("qvl_export.quant.calibration.layerwise.LEAST_SQNR", -100.0)
    export(export_plan(source, tmp_path / "plain", **plan))
    reference = load(reference_bundle, threads=1)
    same, ours, plain = (divergence(reference, load(tmp_path / n, threads=1)) for n in ("float", "ours", "plain"))
    assert same < 1e-5
    assert ours < 0.001
    assert plain > 10 * ours
