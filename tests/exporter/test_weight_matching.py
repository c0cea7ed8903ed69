"""Tensors of a checkpoint against parameters of a graph: mismatches are named with their likely cause."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnxscript import GraphBuilder, nn

from qvl_export.checkpoint.derived_tensors import transposed
from qvl_export.checkpoint.safetensors_reader import StoredTensor, Tensor
from qvl_export.errors import CheckpointError
from qvl_export.graph.build import FLOAT, Graph, add_input, add_output, empty_graph
from qvl_export.graph.layers import Linear
from qvl_export.graph.weight_matching import match
from qvl_export.targets import lower

HERE = Path("checkpoint")


def stored(name: str, shape: tuple[int, ...] = (6, 4), dtype: Any = np.float16) -> StoredTensor:
    return StoredTensor(name, HERE / "model.safetensors", np.dtype(dtype), shape, 0)


def graph() -> Graph:
    """Two linears, `visual.a` and `model.b`, [6, 4] and [4, 6]."""
    target = lower("cpu", "fp32")
    holder: Any = nn.Module("")
    holder.first, holder.second = (
        Linear(target, 4, 6, bias=False, name="visual.a"),
        Linear(target, 6, 4, bias=False, name="model.b"),
    )
    built = empty_graph("g", target)
    op = GraphBuilder(built).op
    add_output(built, holder.second(op, holder.first(op, add_input(built, "x", FLOAT, [1, "s", 4]))), "y", None)
    return Graph("g", ir.Model(built, ir_version=target.ir_version))


TENSORS = {"visual.a.weight": stored("visual.a.weight"), "model.b.weight": stored("model.b.weight", (4, 6))}


def refused(tensors: dict[str, Tensor], *unused: str) -> str:
    with pytest.raises(CheckpointError) as caught:
        match([graph()], tensors, {}, unused, HERE)
    return str(caught.value)


def test_every_parameter_has_its_tensor() -> None:
    found = match([graph()], {**TENSORS, "score.weight": stored("score.weight")}, {}, ["score.*"], HERE)
    assert found.keys() == TENSORS.keys()
    assert "1 tensors are not part of the model: score.weight" in refused({**TENSORS, "score.weight": stored("s")})


@pytest.mark.parametrize(
    ("names", "cause"),
    [
        (["visual.a.weight", "model.b.base_layer.weight", "model.b.lora_A.weight"], "merge it with peft"),
        (["visual.a.weight", "model.b.qweight", "model.b.scales"], "the checkpoint is quantized"),
        (["wrapper.visual.a.weight", "wrapper.model.b.weight"], "names begin with 'wrapper.'"),
        (["model.b.weight"], "a text-only or sharded part"),
        (["visual.a.weight"], "of different models, or a shard is missing"),
    ],
)
def test_the_likely_cause_of_missing_tensors(names: list[str], cause: str) -> None:
    message = refused({name: TENSORS.get(name, stored(name)) for name in names})
    assert "tensors are missing: " in message and cause in message


def test_another_shape_or_type_is_refused() -> None:
    shape = "tensor visual.a.weight has shape [4, 6], config.json says [6, 4]"
    assert shape in refused({**TENSORS, "visual.a.weight": stored("visual.a.weight", (4, 6))})
    integers = stored("visual.a.weight", dtype=np.int32)
    assert "holds integers" in refused({**TENSORS, "visual.a.weight": integers})
    turned = transposed(stored("visual.a.weight", (4, 6), np.int8))
    assert "has element type I8" in refused({**TENSORS, "visual.a.weight": turned})


def test_parts_that_no_linear_takes_are_refused() -> None:
    packed: Any = {"model.c.codes": stored("model.c.codes")}
    with pytest.raises(CheckpointError, match=r"1 quantized tensors are not part of the model: model\.c\.codes"):
        match([graph()], TENSORS, packed, [], HERE)
