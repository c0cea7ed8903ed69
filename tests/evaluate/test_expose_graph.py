"""Bundles are copied with additional outputs, and left as they were."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from qvl_export.evaluate.trace.expose_graph import copy_directory, expose, linears, residual_streams
from qvl_runtime.bundle import sha256


def test_a_copy_has_the_streams_as_outputs(reference_bundle: Path, tmp_path: Path) -> None:
    before = sha256(reference_bundle / "llm.onnx")
    names = expose(reference_bundle, "llm.layers.1", tmp_path)
    assert [name for names_of_graph in names.values() for name in names_of_graph if "/" not in name] == (
        residual_streams(reference_bundle)
    )
    outputs = {port.name for port in onnx.load(tmp_path / "llm.onnx", load_external_data=False).graph.output}
    assert {"llm.layers.1", "llm.layers.1/mlp.down_proj", "logits"} <= outputs
    assert sha256(reference_bundle / "llm.onnx") == before


def test_a_bias_belongs_to_its_linear() -> None:
    scope = "v_model.layers.0.mlp.up_proj"
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "w"], [f"{scope}.MatMul"]),
        onnx.helper.make_node("Add", [f"{scope}.MatMul", "b"], [f"{scope}.Add"]),
        onnx.helper.make_node("Relu", [f"{scope}.Add"], ["y"]),
    ]
    graph = onnx.helper.make_graph(nodes, "g", [], [])
    assert linears(graph, "llm.layers.0") == ["llm.layers.0/mlp.up_proj"]
    assert [list(node.output) for node in graph.node][:2] == [[f"{scope}.MatMul"], ["llm.layers.0/mlp.up_proj"]]
    assert list(graph.node[2].input) == ["llm.layers.0/mlp.up_proj"]


def test_pieces_of_a_product_are_one_linear() -> None:
    scope = "v_model.layers.0.mlp.up_proj"
    pieces = [f"{scope}.FusedMatMul_1_{row}" for row in (0, 640)]
    nodes = [onnx.helper.make_node("FusedMatMul", ["x", "w"], [piece]) for piece in pieces]
    nodes.append(onnx.helper.make_node("Concat", pieces, [f"{scope}.FusedMatMul_1"], axis=-1))
    graph = onnx.helper.make_graph(nodes, "g", [], [])
    assert linears(graph, "llm.layers.0") == ["llm.layers.0/mlp.up_proj"]
    assert [list(node.output) for node in graph.node] == [[pieces[0]], [pieces[1]], ["llm.layers.0/mlp.up_proj"]]


def test_products_of_different_inputs_are_no_linear() -> None:
    """Scores and values of attention that is written out, or the two products of experts."""
    scope = "v_model.layers.0.self_attn"
    nodes = [
        onnx.helper.make_node("MatMul", ["q", "k"], [f"{scope}.MatMul"]),
        onnx.helper.make_node("Softmax", [f"{scope}.MatMul"], [f"{scope}.Softmax"]),
        onnx.helper.make_node("MatMul", [f"{scope}.Softmax", "v"], [f"{scope}.MatMul_1"]),
    ]
    graph = onnx.helper.make_graph(nodes, "g", [], [])
    assert linears(graph, "llm.layers.0") == [] and len(graph.node) == 3


@pytest.mark.parametrize("stage", [None, "logits"])
def test_a_stage_without_linears_changes_nothing(stage: str | None) -> None:
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [], [])
    assert linears(graph, stage) == [] and list(graph.node[0].output) == ["y"]


def test_a_copy_is_elsewhere_if_it_cannot_be_beside_the_bundle(tmp_path: Path) -> None:
    with copy_directory(Path("/proc/bundle"), tmp_path) as directory:
        assert directory == tmp_path / "copy" and directory.is_dir()
