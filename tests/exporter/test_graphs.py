"""L1: graphs are valid ONNX, keep their contract, and put everything but weights inside the graph file."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from qvl_export import families, targets
from qvl_export.checkpoint.directory import Checkpoint
from qvl_export.graph.build import build_llm, build_vision
from qvl_export.targets import DEFERRED_SCALE
from qvl_runtime import sessions
from qvl_runtime.bundle import read_manifest
from tests.conftest import GRAPH_TARGETS, Bundles
from tests.oracles.families import find as find_family
from tests.oracles.tiny import FAMILIES, SHAPES

ELEMENT = {
    onnx.TensorProto.FLOAT: "float",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.INT64: "int64",
    onnx.TensorProto.INT32: "int32",
    onnx.TensorProto.BOOL: "bool",
}
LLM_INPUTS = {
    "input_ids",
    "position_ids",
    "image_features",
    "image_positions",
    "logits_positions",
}
CACHE_INPUTS = {
    "cpu": {"seqlens_k", "total_sequence_length"},
    "cuda": {"seqlens_k", "total_sequence_length"},
    "web": {"seqlens_k", "total_sequence_length"},
    "portable": {"write_indices", "attention_mask"},
    "openvino": {"attention_mask"},
}

every_bundle = pytest.mark.parametrize(
    ("target", "family", "precision"), list(itertools.product(GRAPH_TARGETS, FAMILIES, ("fp32", "fp16")))
)


def test_cache_inputs_of_targets() -> None:
    for target, names in CACHE_INPUTS.items():
        assert {name for name, _, _ in targets.lower(target, "fp16").cache_inputs} == names


@pytest.mark.slow
@every_bundle
@pytest.mark.parametrize("graph", ["vision", "llm"])
def test_the_checker_accepts_it(bundle: Bundles, target: str, family: str, precision: str, graph: str) -> None:
    path = bundle(family, "deep", precision, target) / f"{graph}.onnx"
    onnx.checker.check_model(str(path), full_check=False)
    onnx.shape_inference.infer_shapes(onnx.load(path, load_external_data=False), strict_mode=True)


@every_bundle
@pytest.mark.parametrize("graph", ["vision", "llm"])
def test_ports_are_those_of_the_manifest(bundle: Bundles, target: str, family: str, precision: str, graph: str) -> None:
    directory = bundle(family, "deep", precision, target)
    entry = read_manifest(directory).graphs[graph]
    model = onnx.load(directory / f"{graph}.onnx", load_external_data=False)
    defaults = {tensor.name for tensor in model.graph.initializer}  # of pieces of weights, see `graph.row_pieces`
    inputs = [value for value in model.graph.input if value.name not in defaults]
    for ports, values in ((entry.inputs, inputs), (entry.outputs, model.graph.output)):
        for port, value in zip(ports, values, strict=True):
            tensor = value.type.tensor_type
            axes = [axis.dim_param or axis.dim_value for axis in tensor.shape.dim]
            assert (port.name, port.dtype, port.shape) == (value.name, ELEMENT[tensor.elem_type], axes)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("target", GRAPH_TARGETS)
def test_names_of_inputs_and_outputs(bundle: Bundles, target: str, family: str) -> None:
    graphs, expected = read_manifest(bundle(family, "small", "fp32", target)).graphs, find_family(family)
    vision = {port.name for port in graphs["vision"].inputs}
    assert vision == {"pixel_values"} | expected.vision_inputs
    shape, states = SHAPES["small"], ("conv_state", "recurrent_state")
    deepstack = ["deepstack_features.0"] if expected.deepstack else []
    recurrent = expected.recurrent(shape)
    kept = {index: states if index in recurrent else ("key", "value") for index in range(shape.layers)}
    cache = {f"{index}.{part}" for index, parts in kept.items() for part in parts}
    past = [f"past_key_values.{name}" for name in cache]
    filled = {name for name, _, _ in targets.lower(target, "fp32").cache_inputs}
    inputs = {*LLM_INPUTS, *filled, *deepstack, *expected.llm_inputs, *past}
    assert {port.name for port in graphs["llm"].inputs} == inputs
    assert {port.name for port in graphs["llm"].outputs} == {"logits"} | {f"present.{name}" for name in cache}
    assert [port.name for port in graphs["vision"].outputs] == ["image_features", *deepstack]


@every_bundle
def test_residual_streams_have_their_names(bundle: Bundles, target: str, family: str, precision: str) -> None:
    shape, directory = SHAPES["deep"], bundle(family, "deep", precision, target)
    for graph, prefix, count in (
        ("vision", "vision.blocks", shape.vision_depth),
        ("llm", "llm.layers", shape.layers),
    ):
        nodes = onnx.load(directory / f"{graph}.onnx", load_external_data=False).graph.node
        made = {name for node in nodes for name in node.output}
        assert {f"{prefix}.{index}" for index in range(count)} <= made


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_stored_once_in_the_requested_type(bundle: Bundles, family: str) -> None:
    """A tied table once, though its lookup and its product read it as two initializers; gains and biases in float32."""
    directory = bundle(family, "small", "fp16")
    initializers = onnx.load(directory / "llm.onnx", load_external_data=False).graph.initializer
    llm = read_manifest(directory).llm
    tables = [tensor for tensor in initializers if list(tensor.dims) == [llm.vocab_size, llm.hidden_size]]
    offsets = {item.value for tensor in tables for item in tensor.external_data if item.key == "offset"}
    assert len(offsets) == 1 + find_family(family).always_untied
    assert {tensor.name for tensor in tables} >= {"model.embed_tokens.weight"}
    for tensor in initializers:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            matrix = len(tensor.dims) > 1 and not tensor.name.endswith("conv1d.weight")
            wanted = onnx.TensorProto.FLOAT16 if matrix else onnx.TensorProto.FLOAT
            assert tensor.data_type == wanted, tensor.name
        else:
            assert len(tensor.raw_data) < 4096, tensor.name


@every_bundle
def test_a_portable_graph_speaks_standard_onnx_alone(bundle: Bundles, target: str, family: str, precision: str) -> None:
    model = onnx.load(bundle(family, "deep", precision, target) / "llm.onnx", load_external_data=False)
    domains = {node.domain for node in model.graph.node}
    assert domains == set(dict(targets.lower(target, precision).opsets))
    assert target not in ("portable", "openvino") or domains == {""}


@every_bundle
def test_a_graph_tells_nothing_of_the_code_that_built_it(
    bundle: Bundles, target: str, family: str, precision: str
) -> None:
    for name in ("vision", "llm"):
        model = onnx.load(bundle(family, "deep", precision, target) / f"{name}.onnx", load_external_data=False)
        assert {item.key for node in model.graph.node for item in node.metadata_props} <= {DEFERRED_SCALE}


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_keep_their_published_names(checkpoint: Callable[[str, str], Path], family: str) -> None:
    source = Checkpoint(checkpoint(family, "deep"))
    spec, target = families.read_spec(source), targets.lower("cpu", "fp16")
    names = set()
    for graph in (build_vision(spec, target), build_llm(spec, target)):
        names |= set(graph.model.graph.initializers)
    assert set(families.tensors(source, spec)) <= names


def test_families_and_targets_are_found_by_name() -> None:
    """Every family and target of the exporter; a new one needs its file in tests and in the runtime too."""
    assert list(FAMILIES) == families.available()
    assert {"cpu", "cuda", "openvino", "portable", "web"} <= set(GRAPH_TARGETS)
    assert targets.available() == sessions.available()
