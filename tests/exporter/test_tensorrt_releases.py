"""Graphs for a release of TensorRT: valid at its opset, of operators that its parser lists, in the form it takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from qvl_export import ExportError, export
from qvl_export.cli.commands import cli
from qvl_export.engines.script import merged, type_hints
from qvl_export.engines.tensorrt_releases import JETPACKS, RELEASES, find, listed_operators, of_options
from qvl_export.targets import GraphForm, lower
from qvl_runtime.bundle import read_manifest
from qvl_runtime.manifest import Bounds, Profile
from tests.oracles import tiny
from tests.plans import export_plan
from tests.quant.test_gptq_checkpoint import EXAMPLES

Checkpoints = Callable[[str, str], Path]
INT4_OPSETS = {"10.3": 21, "10.13": 21, "10.15": 24}
SMALL = {"max_length": 1024, "samples": 2}


def exported(source: Path, out: Path, **options: Any) -> Path:
    given = SMALL | ({} if "qwen-" in source.name else {"max_pixels": 50176}) | options
    if given.get("precision", "fp16") == "fp16":
        del given["samples"]
    export(export_plan(source, out, target="tensorrt", **given))
    return out


def assert_readable(out: Path, release: str, opset: int) -> None:
    """Both graphs are valid ONNX of that opset, whose operators the release lists, with what its table restricts."""
    for name in read_manifest(out).graphs:
        onnx.checker.check_model(str(out / f"{name}.onnx"))
        model = onnx.load(out / f"{name}.onnx", load_external_data=False)
        onnx.shape_inference.infer_shapes(model, strict_mode=True)
        assert [(item.domain, item.version) for item in model.opset_import] == [("", opset)]
        unlisted = {node.op_type for node in model.graph.node} - RELEASES[release].operators
        assert not unlisted, unlisted
        assert_restrictions(model)


def assert_restrictions(model: onnx.ModelProto) -> None:
    """The restrictions of operators.md: attention of four axes, no reduction of ScatterND, zero points of zero."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in values}
    constants = {node.output[0]: node.attribute[0].t for node in model.graph.node if node.op_type == "Constant"}
    constants |= {value.name: value for value in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Attention":
            assert all(ranks[name] == 4 for name in node.input), node.name
        if node.op_type == "ScatterND":
            assert not any(item.name == "reduction" and item.s != b"none" for item in node.attribute), node.name
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and len(node.input) == 3:
            value = onnx.numpy_helper.to_array(constants[node.input[2]])
            assert not value.any(), node.name


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("family", tiny.ATTENTION)
def test_graphs_have_only_what_the_release_lists(
    checkpoint: Checkpoints, tmp_path: Path, family: str, release: str
) -> None:
    out = exported(checkpoint(family, "small"), tmp_path / "b", tensorrt_version=release)
    assert_readable(out, release, RELEASES[release].opset)
    manifest = read_manifest(out)
    assert manifest.provenance.options["tensorrt_version"] == release
    assert all(entry.engine and entry.engine.builder is None for entry in manifest.graphs.values())
    assert f"TensorRT {release} or later" in (out / "build_engines.sh").read_text("utf-8")


@pytest.mark.parametrize("release", RELEASES)
def test_int8_is_q_and_dq(tmp_path: Path, release: str) -> None:
    out = exported(tiny.REFERENCE, tmp_path / "b", tensorrt_version=release, precision="int8")
    assert_readable(out, release, RELEASES[release].opset)
    kinds = {node.op_type for node in onnx.load(out / "llm.onnx", load_external_data=False).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    assert ("--int8" in (out / "build_engines.sh").read_text("utf-8")) == (release == "8.6")


@pytest.mark.parametrize("release", INT4_OPSETS)
def test_int4_weights_have_their_opset(tmp_path: Path, release: str) -> None:
    out = exported(tiny.REFERENCE, tmp_path / "b", tensorrt_version=release, precision="int4")
    assert_readable(out, release, INT4_OPSETS[release])
    assert any("int4" in kind for kind in read_manifest(out).graphs["llm"].weight_bytes)


def test_the_int4_weights_of_a_checkpoint_have_their_opset_too(tmp_path: Path) -> None:
    symmetric = next(path for path in EXAMPLES if "sym" in path.name and "asym" not in path.name)
    out = exported(symmetric, tmp_path / "b", tensorrt_version="10.3")
    assert_readable(out, "10.3", 21)


def test_operators_are_those_of_the_tables_and_of_later_releases() -> None:
    assert "LayerNormalization" not in listed_operators((8, 5)) and "LayerNormalization" in listed_operators((8, 6))
    assert listed_operators((8, 6)) < listed_operators((10, 3)) < listed_operators((10, 13))
    assert "Gelu" in listed_operators((10, 13)) - listed_operators((10, 3)), "in the table of 10.8, not in a changelog"
    assert "Attention" in listed_operators((10, 14)) - listed_operators((10, 13))
    assert {"RotaryEmbedding", "RMSNormalization", "TensorScatter"} <= listed_operators((10, 15))
    assert "Swish" not in listed_operators((10, 15)), "no parser has it: it is written out"


def test_releases_are_in_order_and_have_the_numbers_that_trtexec_prints() -> None:
    assert [release.number for release in RELEASES.values()] == [8600, 100300, 101300, 101500]
    assert [release.version for release in RELEASES.values()] == sorted(each.version for each in RELEASES.values())
    assert all(name in RELEASES for name in JETPACKS.values())
    assert find("10.3").opset == 17


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (
            {"tensorrt_version": "10.2"},
            "--tensorrt-version 10.2 is not known (8.6, 10.3, 10.13, 10.15: take the newest one not above yours)",
        ),
        ({"jetpack": "5"}, "--jetpack 5 is not known (6 or 7; for others --tensorrt-version 8.6, "),
        ({"jetpack": "6", "tensorrt_version": "10.3"}, "--tensorrt-version and --jetpack exclude one another"),
        ({"jetpack": "6", "precision": "int4"}, "TensorRT 8.6 has no int4 weights (use --precision int8, or "),
        ({"tensorrt_version": "8.6", "precision": "hybrid"}, "TensorRT 8.6 has no int4 weights"),
        ({"tensorrt_version": "8.6", "max_size": 1 << 30}, "TensorRT 8.6 has no int4 weights"),
        ({"tensorrt_version": "10.15", "precision": "fp32"}, "TensorRT has no attention in fp32"),
        ({"tensorrt_version": "10.3", "target": "portable"}, "target portable does not read --tensorrt-version"),
        ({"jetpack": "7", "target": "tensorrt-rtx"}, "target tensorrt_rtx does not read --tensorrt-version"),
        ({"jetpack": "6", "target": "openvino"}, "target openvino does not read --tensorrt-version or --jetpack"),
        ({"tensorrt_version": "10.3", "opset": 20}, "target tensorrt does not read --opset"),
        ({"tensorrt_version": "10.3", "compute_capability": "87"}, "TensorRT builds for the GPU it runs on"),
    ],
)
def test_refusals(tmp_path: Path, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ExportError) as caught:
        export(export_plan(tiny.REFERENCE, tmp_path / "b", **({"target": "tensorrt"} | options)))
    assert problem in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(("option", "value"), [("--tensorrt-version", "11"), ("--jetpack", "6.2")])
def test_the_command_says_which_release_to_take(tmp_path: Path, option: str, value: str) -> None:
    arguments = ["export", str(tiny.REFERENCE), str(tmp_path / "b"), "--target", "tensorrt", option, value]
    error = CliRunner().invoke(cli, arguments).exception
    assert isinstance(error, ExportError)
    assert str(error).startswith(f"{option} {value} is not known (") and "take the newest one not above" in str(error)


def test_a_jetpack_is_its_oldest_release() -> None:
    assert (of_options(None, "6"), of_options(None, "7"), of_options("10.3", None)) == ("8.6", "10.13", "10.3")
    assert of_options(None, None) is None


def test_fp32_is_possible_where_attention_is_written_out() -> None:
    target: Any = lower("tensorrt", "fp32", form=GraphForm(tensorrt="10.13"))
    assert target.opset == 21 and not target.has("Attention") and target.has("Gelu") and target.static_cache


def test_one_profile_has_the_bounds_of_all() -> None:
    shapes = [
        Profile(name="prompt", axes={"sequence": Bounds(min=4, opt=512, max=512)}),
        Profile(name="answer", axes={"sequence": Bounds(min=1, opt=1, max=600)}),
    ]
    assert merged(shapes) == Profile(name="prompt", axes={"sequence": Bounds(min=1, opt=512, max=600)})


def test_types_are_hints_for_every_value_in_float16(tmp_path: Path) -> None:
    """In TensorRT 8 everything else is named float32, so that norms and sums do not overflow."""
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Cast", ["x"], ["h"], name="a/narrow", to=onnx.TensorProto.FLOAT16),
            onnx.helper.make_node("MatMul", ["h", "h"], ["y"], name="a/product"),
            onnx.helper.make_node("Cast", ["y"], ["z"], name="a/widen", to=onnx.TensorProto.FLOAT),
        ],
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [4, 4])],
        [onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [4, 4])],
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]), tmp_path / "m.onnx")
    assert type_hints(tmp_path / "m.onnx") == (
        "--fp16 --precisionConstraints=prefer --layerPrecisions=*:fp32,a/narrow:fp16,a/product:fp16"
    )


def test_written_out_operators_are_those_that_are_missing() -> None:
    newest: Any = lower("tensorrt", "fp16")
    assert newest.opset == 24 and newest.lacking == {"Swish"} and newest.has("TensorScatter")
    assert np.all([not lower("portable", "fp16").lacking])  # type: ignore[attr-defined]
