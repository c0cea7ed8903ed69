"""What every scheme found must do, on every target whose graphs run without a GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from qvl_export import export
from qvl_export.errors import ExportError
from qvl_export.qtensor import QTensor, QuantFormat
from qvl_export.quant.calibration.layer_session import open_session
from qvl_export.quant.output_error import sqnr
from qvl_export.quant.schemes import Options, Scheme, available, find, reads
from qvl_export.quant.statistics import Collector, Statistics
from qvl_export.targets import lower
from qvl_runtime.model import load
from tests.conftest import GRAPH_TARGETS, Loader
from tests.heldout import HELDOUT, items
from tests.plans import export_plan
from tests.quant.layers import save_linear

ROWS, COLUMNS = 48, 128
LEAST_SQNR = 15
"""Decibels that a random weight keeps in any format worth having; 4-bit codes rounded to nearest keep 20."""
every_scheme = pytest.mark.parametrize("name", available())


def case(name: str, static: bool = False) -> tuple[Scheme, np.ndarray, Statistics, QTensor]:
    """A scheme, a random weight, statistics of random inputs, and the quantized weight."""
    rng, scheme = np.random.default_rng(0), find(name, Options(static=static))
    collector = Collector("x", 1, scheme.hessian)
    collector.add(rng.standard_normal((512, COLUMNS)).astype(np.float32))
    weight, statistics = rng.standard_normal((ROWS, COLUMNS)).astype(np.float32), collector.statistics()
    return scheme, weight, statistics, scheme.quantize(weight, statistics)


@every_scheme
def test_the_format_is_known_beforehand_and_the_error_is_small(name: str) -> None:
    scheme, weight, statistics, tensor = case(name)
    assert tensor.format == scheme.format(COLUMNS)
    assert tensor.codes.shape == weight.shape
    assert tensor.scales.shape == (ROWS, tensor.format.blocks(COLUMNS))
    assert sqnr(weight, tensor, statistics) > LEAST_SQNR


@pytest.mark.parametrize(
    ("linear", "asked", "kv_bits", "format"),
    [
        ("model.layers.3.self_attn.q_proj", None, 8, QuantFormat(4, 128)),
        ("model.layers.3.self_attn.k_proj", None, 8, QuantFormat(8, 128)),
        ("model.layers.3.self_attn.v_proj", 32, 8, QuantFormat(8, 32)),
        ("model.layers.3.mlp.down_proj", None, 8, QuantFormat(4, 128)),
        ("model.layers.3.mlp.experts.gate_up_proj", None, 8, QuantFormat(4, 32)),
        ("visual.blocks.3.attn.qkv", None, 8, QuantFormat(4, 32)),
        ("model.layers.3.self_attn.k_proj", None, 4, QuantFormat(4, 32)),
        ("model.layers.3.self_attn.k_proj", 64, 4, QuantFormat(4, 64)),
    ],
)
def test_int4_of_a_linear(linear: str, asked: int | None, kv_bits: int, format: QuantFormat) -> None:
    scheme = find("int4", Options(block_size=asked, kv_bits=kv_bits))
    assert scheme.of_linear(linear).format(256) == scheme.of_linear(linear).of_linear(linear).format(256) == format


@every_scheme
def test_weights_that_are_not_finite_are_refused(name: str) -> None:
    scheme, weight, statistics, _ = case(name)
    weight[3, 5] = np.nan
    with pytest.raises(ExportError, match="finite"):
        scheme.quantize(weight, statistics)


@every_scheme
def test_options_that_change_it_are_in_its_reads(name: str) -> None:
    scheme = find(name, Options())
    assert find(name, Options()) == scheme, "schemes are frozen dataclasses, which compare by their fields"
    for option in fields(Options):
        other = not option.default if isinstance(option.default, bool) else 2 * (option.default or 32)
        assert find(name, replace(Options(), **{option.name: other})) == scheme or reads(name, option.name), option.name


@pytest.mark.slow
@every_scheme
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe"])
def test_a_bundle_of_it_answers(
    checkpoint: Callable[[str, str], Path], model: Loader, name: str, family: str, tmp_path: Path
) -> None:
    """About what the float bundle does; linears of experts too."""
    plan = export_plan(checkpoint(family, "deep"), tmp_path / "b", precision=name, calib=HELDOUT, samples=2)
    assert "int" in export(plan).graphs["llm"].precision
    item = next(items("ocr"))
    expected = model(family, "deep", "fp32").logits(item.messages, item.answer)
    off = load(tmp_path / "b", threads=1).logits(item.messages, item.answer) - expected
    assert np.linalg.norm(off) < 0.5 * np.linalg.norm(expected)


@every_scheme
@pytest.mark.parametrize("target", GRAPH_TARGETS)
def test_engines_multiply_by_it(name: str, target: str, tmp_path: Path) -> None:
    ops = lower(target, "fp16")
    _, _, statistics, tensor = case(name, ops.static_activations)
    save_linear(ops, tensor, None, tmp_path / "linear.onnx")
    x = statistics.tokens[:16]
    (y,) = open_session(tmp_path / "linear.onnx").run(["y"], {"x": x[None]})
    expected = x.astype(np.float64) @ tensor.dequantize().T
    assert np.abs(y[0] - expected).max() < 0.05 * np.abs(expected).max()
