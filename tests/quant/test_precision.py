"""The precisions of the two towers."""

from __future__ import annotations

from qvl_export.quant.precision import of_towers


def test_towers_choose_for_themselves() -> None:
    assert of_towers("hybrid") == {"vision": "int8", "llm": "int8", "llm_decode": "int4"}
    assert of_towers("fp16", llm="hybrid") == {"vision": "fp16", "llm": "int8", "llm_decode": "int4"}
    assert of_towers("hybrid", llm="int4") == {"vision": "int8", "llm": "int4"}
