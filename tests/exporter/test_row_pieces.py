"""Float16 weights of cpu bundles: pieces compute what the whole weight does, without a copy in float32."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from qvl_export.graph import row_pieces
from qvl_export.graph.row_pieces import cut_weights
from qvl_runtime.sessions.cpu import open_session

ROWS, COLUMNS, PARTS = 96, 64, 3
DRAW = np.random.default_rng(0)
X = DRAW.standard_normal((1, 5, COLUMNS), np.float32)
Product = Callable[[ir.Graph, ir.Value, ir.Value], ir.Value]


def stored(directory: Path, rows: int, columns: int, kind: type = np.float16) -> ir.Value:
    """A weight in the file `data`, behind 4,096 other bytes."""
    data = (DRAW.standard_normal((rows, columns), np.float32) * 0.02).astype(kind)
    (directory / "data").write_bytes(b"\0" * 4096 + data.tobytes())
    dtype = ir.DataType.from_numpy(data.dtype)
    tensor = ir.ExternalTensor(
        "data", 4096, data.nbytes, dtype, shape=ir.Shape(data.shape), name="w", base_dir=directory
    )
    return ir.Value(name="w", shape=ir.Shape(data.shape), type=ir.TensorType(dtype), const_value=tensor)


def add(graph: ir.Graph, operator: str, inputs: list[ir.Value], **attributes: object) -> ir.Value:
    domain = "com.microsoft" if operator == "FusedMatMul" else ""
    node = ir.node(operator, inputs, attributes, domain=domain, num_outputs=attributes.get("num_outputs", 1))  # type: ignore[arg-type]
    for index, value in enumerate(node.outputs):
        value.name = f"v_{operator}_{len(graph)}_{index}"
    graph.append(node)
    return node.outputs[0]


def product(graph: ir.Graph, x: ir.Value, weight: ir.Value) -> ir.Value:
    return add(graph, "FusedMatMul", [x, add(graph, "Cast", [weight], to=ir.DataType.FLOAT)], transB=1)


def whole(graph: ir.Graph, x: ir.Value, weight: ir.Value) -> ir.Value:
    return product(graph, x, weight)


def parts(graph: ir.Graph, x: ir.Value, weight: ir.Value) -> ir.Value:
    split = add(graph, "Split", [weight], axis=0, num_outputs=PARTS).producer()
    assert split is not None
    return add(graph, "Concat", [product(graph, x, part) for part in split.outputs], axis=-1)


def model(weight: ir.Value, make: Product, columns: int = COLUMNS) -> ir.Model:
    x = ir.Input("x", shape=ir.Shape([1, "tokens", columns]), type=ir.TensorType(ir.DataType.FLOAT))
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 23, "com.microsoft": 1}, name="g", initializers=[weight])
    y = make(graph, x, weight)
    y.type, y.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([1, "tokens", "rows"])
    graph.outputs.append(y)
    return ir.Model(graph, ir_version=11)


def answer(directory: Path, made: ir.Model) -> np.ndarray:
    ir.save(made, directory / "model.onnx")
    session = open_session(directory / "model.onnx")
    assert [port.name for port in session.get_inputs()] == ["x"]
    (y,) = session.run(None, {"x": X})
    return np.asarray(y)


@pytest.mark.parametrize("make", [whole, parts])
@pytest.mark.parametrize("piece", [1 << 20, 2048, 100])
def test_pieces_compute_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Product, piece: int) -> None:
    """All of the weight, in parts of 32 rows as queries, keys and values have them, in one piece and in several."""
    monkeypatch.setattr(row_pieces, "PIECE", piece)
    before = model(stored(tmp_path, ROWS, COLUMNS), make)
    cut = cut_weights(before)
    count = sum(node.op_type == "FusedMatMul" for node in cut.graph)
    sizes = [max(piece // COLUMNS // 16, 1) * 16, ROWS if make is whole else ROWS // PARTS]
    assert count == ROWS // min(sizes)
    assert [value.name for value in cut.graph.outputs] == [value.name for value in before.graph.outputs]
    np.testing.assert_allclose(answer(tmp_path, cut), answer(tmp_path, before), atol=1e-6)


def test_pieces_are_of_almost_the_same_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_pieces, "PIECE", 5 * 16 * COLUMNS)
    cut = cut_weights(model(stored(tmp_path, ROWS, COLUMNS), whole))
    ir.save(cut, tmp_path / "model.onnx")
    onnx.checker.check_model(str(tmp_path / "model.onnx"))
    assert [value.shape for value in cut.graph.initializers.values()] == [[48, COLUMNS]] * 2


def test_other_weights_stay_whole(tmp_path: Path) -> None:
    """Float32 is multiplied as it is; a table that is looked up is not widened."""
    floats = model(stored(tmp_path, ROWS, COLUMNS, np.float32), whole)
    assert cut_weights(floats) is floats

    def tied(graph: ir.Graph, x: ir.Value, weight: ir.Value) -> ir.Value:
        add(graph, "Gather", [weight, x])
        graph.outputs.append(graph[-1].outputs[0])
        return whole(graph, x, weight)

    assert set(cut_weights(model(stored(tmp_path, ROWS, COLUMNS), tied)).graph.initializers) == {"w", "w.0"}


def anonymous() -> int:
    found = re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="RssAnon is Linux's")
def test_a_weight_is_not_held_in_float32(tmp_path: Path) -> None:
    """A weight of 64 MiB; whole it would take 128 MiB that are not the file's."""
    rows, columns = 8192, 4096
    ir.save(cut_weights(model(stored(tmp_path, rows, columns), whole, columns)), tmp_path / "model.onnx")
    before = anonymous()
    session = open_session(tmp_path / "model.onnx")
    session.run(None, {"x": np.ones((1, 1, columns), np.float32)})
    assert anonymous() - before < 32 << 20
