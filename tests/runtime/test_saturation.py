"""The probe for saturating byte products: the stored model equals the one built here, and its result is true.

`python -m tests.runtime.test_saturation` writes the model anew.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qvl_runtime._onnxruntime import saturation
from qvl_runtime.sessions.cpu import session_options


def probe() -> bytes:
    matrix = numpy_helper.from_array(np.full((saturation.DEPTH, 16), 127, np.int8), "b")
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["y"])],
        "probe",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, [1, saturation.DEPTH])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [1, 16])],
        [matrix],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return bytes(model.SerializeToString(deterministic=True))


def test_the_model_equals_the_one_built_here() -> None:
    stored = onnx.load_from_string(saturation.PROBE.read_bytes())
    assert stored == onnx.load_from_string(probe())


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="no /proc/cpuinfo to compare with")
def test_it_finds_what_the_processor_has() -> None:
    flags = Path("/proc/cpuinfo").read_text().split()
    if "avx2" not in flags:
        pytest.skip("not an x86 with AVX2")
    assert saturation.saturates() == ("avx512_vnni" not in flags and "avx_vnni" not in flags)


@pytest.mark.parametrize("found", [True, False])
def test_precision_is_requested_only_where_needed(monkeypatch: pytest.MonkeyPatch, found: bool) -> None:
    monkeypatch.setattr("qvl_runtime.sessions.cpu.saturates", lambda: found)
    assert session_options(1).get_session_config_entry("session.x64quantprecision") == str(int(found))


if __name__ == "__main__":
    saturation.PROBE.write_bytes(probe())
