"""The bundles that speed is measured on: of random codes, but the graphs that a real export writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from qvl_export import export
from qvl_runtime import load
from qvl_runtime.bundle import read_manifest
from qvl_runtime.manifest import GraphEntry
from tests.bench.random_bundle import export_random
from tests.heldout import HELDOUT, items
from tests.plans import export_plan


def forms(graph: GraphEntry) -> set[str]:
    """Those of its quantized linears."""
    return {form for form in graph.precision.split(", ") if not form.startswith("else ")}


@pytest.mark.parametrize("precision", ["fp16", "int8", "int4", "hybrid"])
def test_random_bundles_are_those_of_an_export(
    checkpoint: Callable[[str, str], Path], tmp_path: Path, precision: str
) -> None:
    pages = {} if precision == "fp16" else {"calib": HELDOUT, "samples": 2}
    plan = {"precision": precision, **({"block_size": 16} if precision in ("int4", "hybrid") else {})}
    export(export_plan(checkpoint("qwen2_5_vl", "deep"), tmp_path / "real", **plan, **pages))
    export_random(export_plan(checkpoint("qwen2_5_vl", "deep"), tmp_path / "random", **plan))
    real, made = (read_manifest(tmp_path / name).graphs for name in ("real", "random"))
    assert made.keys() == real.keys()
    for name, graph in made.items():
        assert (graph.inputs, graph.outputs) == (real[name].inputs, real[name].outputs)
        assert forms(graph) == forms(real[name])
    assert load(tmp_path / "random", threads=1).encode(next(items("ocr")).image).shape[1] > 0
