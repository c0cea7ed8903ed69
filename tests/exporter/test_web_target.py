"""Target `web`: what it refuses, and what it promises about weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from qvl_export import ExportPlan, export
from qvl_export.errors import ExportError
from qvl_export.qtensor import QTensor
from qvl_export.quant.schemes.int8 import Int8
from qvl_export.targets import lower
from qvl_runtime.sessions.cpu import open_session
from tests.conftest import Bundles
from tests.quant.layers import save_linear

DRAW = np.random.default_rng(0)
ROWS, WORST = 24, 0.03
"""Error of a row's products as a part of the largest: inputs are rounded to steps of 1/127 of the largest, which is an
error of 0.7 % of a standard deviation, and the largest of nine products is at least about one."""


@pytest.mark.parametrize(
    ("family", "problem"),
    [
        ("qwen3_vl_moe", "WebGPU has no float experts"),
        ("qwen3_5", "ONNX Runtime Web has no linear attention"),
        ("qwen3_5_moe", "ONNX Runtime Web has no linear attention"),
    ],
)
def test_models_that_webgpu_cannot_take_are_refused(
    checkpoint: Callable[[str, str], Path], tmp_path: Path, family: str, problem: str
) -> None:
    with pytest.raises(ExportError, match=problem) as error:
        export(ExportPlan(checkpoint(family, "small"), tmp_path / "bundle", target="web"))
    assert "\n" not in str(error.value)
    assert "(export with --target " in str(error.value)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_products_read_weights_as_they_are_stored(bundle: Bundles, precision: str) -> None:
    for name in ("vision", "llm"):
        path = bundle("qwen2_5_vl", "small", precision, "web") / f"{name}.onnx"
        graph = onnx.load(path, load_external_data=False).graph
        weights = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 2}
        gemms = [node for node in graph.node if node.op_type == "Gemm"]
        assert gemms
        assert all(node.input[1] in weights for node in gemms)
        assert not {"MatMul", "FusedMatMul"} & {node.op_type for node in graph.node}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("columns", [48, 96, 256])
@pytest.mark.parametrize("size", [1e-4, 1.0, 1e4])
def test_int8_products_do_not_depend_on_float16s_range(
    tmp_path: Path, precision: str, columns: int, size: float
) -> None:
    """Rows whose scales float16 cannot hold, inputs beyond its range, and columns that are not whole blocks."""
    spread = np.array([1e-6, 1e-3, 1.0], np.float32).repeat(ROWS // 3)[:, None]
    weight = DRAW.standard_normal((ROWS, columns)).astype(np.float32) * spread
    tensor: QTensor = Int8().quantize(weight)
    bias = DRAW.standard_normal(ROWS).astype(np.float32) * spread[:, 0] * size
    x = DRAW.standard_normal((9, columns)).astype(np.float32) * size * 10
    save_linear(lower("web", precision), tensor, bias, tmp_path / "m.onnx")
    (y,) = open_session(tmp_path / "m.onnx").run(None, {"x": x[None]})
    expected = x.astype(np.float64) @ tensor.dequantize().T + bias
    error = np.abs(y[0] - expected).max(axis=0) / np.abs(expected).max(axis=0)
    assert error.max() < WORST
