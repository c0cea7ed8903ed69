"""The precisions of the two towers."""

from __future__ import annotations

import pytest

from qvl_export.errors import ExportError
from qvl_export.quant.precision import of_floats, of_towers, schemes_of


def test_towers_choose_for_themselves() -> None:
    assert of_towers("hybrid") == {"vision": "int8", "llm": "int8", "llm_decode": "int4"}
    assert of_towers("fp16", llm="hybrid") == {"vision": "fp16", "llm": "int8", "llm_decode": "int4"}
    assert of_towers("hybrid", llm="int4") == {"vision": "int8", "llm": "int4"}


def test_a_precision_may_differ_between_towers() -> None:
    assert of_towers("fp16") == {"vision": "fp16", "llm": "fp16"}
    assert of_towers("int4") == {"vision": "int8", "llm": "int4"}
    assert of_towers("int4", vision="fp32") == {"vision": "fp32", "llm": "int4"}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"precision": "int3"}, "precision 'int3' is not supported"),
        ({"precision": "fp16", "vision": "hybrid"}, "vision precision 'hybrid' is not supported"),
        ({"precision": "fp16", "llm": "mixed"}, "llm precision 'mixed' is not supported .*hybrid"),
    ],
)
def test_unknown_names_are_refused(asked: dict[str, str], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        of_towers(**asked)


def test_what_is_not_quantized_has_a_float_type() -> None:
    assert of_floats("int8", "fp32") == "fp32" and of_floats("fp32", "fp16") == "fp32" and of_floats("int4") == "fp16"


def test_the_schemes_of_a_precision() -> None:
    assert schemes_of("int4") == ["int4"] and schemes_of("mixed") == ["int4", "int8"]
