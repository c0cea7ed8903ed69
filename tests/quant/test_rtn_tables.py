"""Tables are rounded part by part as they are in one piece."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qvl_export.checkpoint.safetensors_reader import StoredTensor
from qvl_export.qtensor import QuantFormat
from qvl_export.quant.calibration.rtn_tables import quantize_rows
from qvl_export.quant.gptq.solver import round_to_nearest

FORMAT, SHAPE = QuantFormat(4, 16), (11, 32)


def test_parts_are_those_of_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qvl_export.quant.calibration.rtn_tables.ROWS_BYTES", 3 * 32 * 4)
    table = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    (tmp_path / "data").write_bytes(table.tobytes())
    source = StoredTensor("table", tmp_path / "data", np.dtype(np.float32), SHAPE, 0)
    saved = quantize_rows("table", source, SHAPE, FORMAT, tmp_path)
    assert np.array_equal(saved.read().dequantize(), round_to_nearest(table, FORMAT).dequantize())
    (tmp_path / "data").unlink()
    again = quantize_rows("table", source, SHAPE, FORMAT, tmp_path)
    assert np.array_equal(again.read().codes, saved.read().codes), "it is not computed twice"
