"""Quantized linears of standard ONNX against what their formats mean, and float16 products beyond float16's range."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from transformers import PreTrainedModel

from qvl_export import ExportPlan, export
from qvl_export.errors import ExportError
from qvl_export.qtensor import QTensor, QuantFormat
from qvl_export.quant.gptq.solver import round_to_nearest
from qvl_export.quant.output_error import round_static
from qvl_export.quant.schemes import Options, find
from qvl_export.quant.statistics import Collector
from qvl_export.targets import lower
from qvl_export.targets._fp16_products import HalfProducts
from qvl_runtime.bundle import read_manifest
from qvl_runtime.model import load
from qvl_runtime.positions import Grid
from qvl_runtime.sessions.cpu import open_session, session_options
from qvl_runtime.sessions.feeds import vision_feeds
from tests.heldout import HELDOUT, divergence
from tests.oracles import tiny
from tests.plans import export_plan
from tests.quant.layers import save_linear

RNG = np.random.default_rng(0)
ROWS, COLUMNS = 48, 96
WORST = {"fp32": 1e-5, "fp16": 3e-3}
"""Error of a product, as a part of its largest value: that of float32, and of float16's 11 bits."""


@pytest.fixture(params=[False, True], ids=["vnni", "saturating"])
def processor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions as the runtime sets them up on a processor with exact byte products, and on one without."""
    monkeypatch.setattr("qvl_runtime.sessions.cpu.saturates", lambda: request.param)


def apply(tensor: QTensor, bias: np.ndarray, precision: str, x: np.ndarray, path: Path) -> np.ndarray:
    """x [S, K] through the target's operators for one quantized linear."""
    save_linear(lower("portable", precision, 0), tensor, bias, path)
    options = session_options(1)
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "0")  # float inputs, as the graph says
    session = open_session(path, options)
    return np.asarray(session.run(None, {"x": x[None]})[0][0])


def quantized(format: QuantFormat) -> QTensor:
    weight = RNG.standard_normal((ROWS, COLUMNS)).astype(np.float32)
    tensor = round_to_nearest(weight, format)
    if format.permuted:
        return QTensor(format, tensor.codes, tensor.scales, tensor.zeros, RNG.permutation(COLUMNS))
    return tensor


@pytest.mark.usefixtures("processor")
@pytest.mark.parametrize("precision", WORST)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("block", [32, 96])
@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("permuted", [False, True])
def test_blocks_mean_what_their_layout_says(
    tmp_path: Path, precision: str, bits: int, block: int, asymmetric: bool, permuted: bool
) -> None:
    tensor = quantized(QuantFormat(bits, block, asymmetric, permuted))
    bias, x = RNG.standard_normal(ROWS).astype(np.float32), RNG.standard_normal((9, COLUMNS)).astype(np.float32)
    y = apply(tensor, bias, precision, x, tmp_path / "m.onnx")
    expected = x.astype(np.float64) @ tensor.dequantize().T + bias
    assert np.abs(y - expected).max() < WORST[precision] * np.abs(expected).max()


def test_weights_kept_without_their_inputs_are_as_exact_however_small() -> None:
    draw = np.random.default_rng(0).uniform(-1, 1, (6, 64)).astype(np.float32)
    weight = draw * np.array([1e3, 1, 1e-3, 1e-4, 1e-5, 5e-6], np.float32)[:, None]
    kept = find("int8", Options(static=True)).quantize(weight, None).weight_only()
    error = np.linalg.norm(kept.dequantize() - weight, axis=1) / np.linalg.norm(weight, axis=1)
    assert kept.scales.dtype == np.float16
    assert (error < 0.01).all()


@pytest.mark.usefixtures("processor")
def test_static_inputs_are_rounded_as_the_scheme_thinks(tmp_path: Path) -> None:
    """Values beyond the calibrated range are cut off, the same way in both."""
    collector = Collector("x", 1, hessian=False)
    collector.add(RNG.standard_normal((256, COLUMNS)).astype(np.float32))
    weight = RNG.standard_normal((ROWS, COLUMNS)).astype(np.float32)
    tensor = find("int8", Options(static=True)).quantize(weight, collector.statistics())
    assert tensor.input_scale is not None
    bias, x = np.zeros(ROWS, np.float32), 3 * RNG.standard_normal((9, COLUMNS)).astype(np.float32)
    y = apply(tensor, bias, "fp16", x, tmp_path / "m.onnx")
    expected = round_static(x, tensor.input_scale).astype(np.float64) @ tensor.dequantize().T
    assert np.abs(y - expected).max() < 1e-4 * np.abs(expected).max()
    assert np.abs(x).max() > 127 * tensor.input_scale


def test_same_signed_static_products_are_exact_in_every_host(tmp_path: Path) -> None:
    """Rows that saturate wherever bytes are multiplied in pairs of 16 bits, in a session that sets no option at all."""
    collector = Collector("x", 1, hessian=False)
    x = RNG.uniform(0.5, 1, (64, COLUMNS)).astype(np.float32)
    collector.add(x)
    weight = RNG.uniform(0.5, 1, (ROWS, COLUMNS)).astype(np.float32)
    tensor = find("int8", Options(static=True)).quantize(weight, collector.statistics())
    assert tensor.input_scale is not None
    save_linear(lower("portable", "fp16", 0), tensor, np.zeros(ROWS, np.float32), tmp_path / "m.onnx")
    plain = ort.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    expected = round_static(x, tensor.input_scale).astype(np.float64) @ tensor.dequantize().T
    assert np.abs(plain.run(None, {"x": x[None]})[0][0] - expected).max() < 1e-5 * np.abs(expected).max()


def test_partial_blocks_are_refused() -> None:
    with pytest.raises(ExportError, match="whole blocks"):
        lower("portable", "fp16").packed_form(8, 84, QuantFormat(4, 32))


MLP = "visual.blocks.0.mlp"
LOUD = {
    "qwen2_5_vl": {f"{MLP}.gate_proj": 300, f"{MLP}.up_proj": 300},
    "qwen3_vl": {f"{MLP}.linear_fc1": 3e4},
    "qwen2_vl": {f"{MLP}.fc1": 3e4},
}
"""How many times as large to make which linears, so that the next one meets what real checkpoints have there."""


@torch.no_grad()
def loud(model: PreTrainedModel, factors: dict[str, float]) -> PreTrainedModel:
    modules = dict(model.model.named_modules())
    for name, factor in factors.items():
        for parameter in modules[name].parameters():
            parameter.mul_(factor)
    return model


def features(bundle: Path) -> np.ndarray:
    """Of a small page, each operator in the types that the graph says: ONNX Runtime drops a CPU's casts to float16."""
    manifest, grid = read_manifest(bundle), Grid(1, 4, 6)
    shape = (1, grid.h * grid.w, manifest.image.patch_dim)
    pixels = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    with np.errstate(all="ignore"):
        outputs = ReferenceEvaluator(str(bundle / "vision.onnx")).run(
            ["image_features"], {"pixel_values": pixels, **vision_feeds(manifest.image, grid)}
        )
    return np.asarray(outputs[0])


@pytest.mark.parametrize("family", LOUD)
def test_values_beyond_float16_are_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str) -> None:
    """As close to fp32 as fp16 is; without the tokens' own scales it is not a number."""
    source = tiny.save(loud(tiny.build(family, tiny.SHAPES["small"]), LOUD[family]), tmp_path / "checkpoint")

    def made(name: str, precision: str = "fp16") -> np.ndarray:
        export(ExportPlan(source, tmp_path / name, target="portable", precision=precision))
        return features(tmp_path / name)

    exact, ours = made("exact", "fp32"), made("ours")
    assert np.linalg.norm(ours - exact) < 0.01 * np.linalg.norm(exact)
    monkeypatch.setattr(HalfProducts, "in_range", lambda self, op, x, exceeds_fp16: (self.narrow(op, x), None))
    assert not np.isfinite(made("naive")).all()


@pytest.mark.slow
@pytest.mark.usefixtures("processor")
@pytest.mark.parametrize("target", ["portable", "openvino"])
@pytest.mark.parametrize(("precision", "most"), [("int8", 0.002), ("int4", 0.03)])
def test_a_portable_bundle_reads_like_float(
    reference_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, most: float, target: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    plan = export_plan(tiny.REFERENCE, tmp_path / "b", target=target, precision=precision, calib=HELDOUT, samples=8)
    vision = export(plan).graphs["vision"]
    assert "int8 × static int8" in vision.linears.values()
    assert divergence(load(reference_bundle, threads=1), load(tmp_path / "b", threads=1)) < most
