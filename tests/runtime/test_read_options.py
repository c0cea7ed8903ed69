"""What makes the answers of two runs different."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from qvl_runtime.read.options import ReadOptions


def test_the_order_of_properties_is_of_the_schema_and_that_of_settings_is_not(bundle: Callable[..., Path]) -> None:
    tiny = bundle("qwen2_5_vl", "deep", "fp32")

    def fingerprint(**options: Any) -> str:
        return ReadOptions(**options).fingerprint(tiny)

    number = {"type": "integer"}
    schemas = [{"type": "object", "properties": dict.fromkeys(names, number)} for names in ("ab", "ba")]
    assert len({fingerprint(json_schema=schema) for schema in (*schemas, None)}) == 3
    assert fingerprint(settings={"seed": 1, "top_k": 2}) == fingerprint(settings={"top_k": 2, "seed": 1})
    assert fingerprint(settings={"seed": 1}) != fingerprint(settings={"seed": 2})
