"""The process that traces a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qvl_export import export
from qvl_export.evaluate.trace import worker
from qvl_export.evaluate.trace.similarity import similarity
from qvl_export.evaluate.trace.trace_files import file_name
from qvl_export.evaluate.trace.worker import TraceJob
from tests.conftest import Bundles
from tests.heldout import HELDOUT
from tests.oracles import tiny
from tests.plans import export_plan

PAGE = HELDOUT / "simple_0001.png"
INTO = "llm.layers.0"
MIN_SQNR = 60.0
"""Decibels between two engines that compute the same stage in float32."""


def trace_job(bundle: Path, out: Path, into: str | None = None) -> TraceJob:
    return TraceJob(str(bundle), "bundle", (str(PAGE),), "Read the text.", str(out), threads=1, into=into)


def traced(bundle: Path, out: Path) -> dict[str, np.ndarray]:
    """Every stage of a bundle, and the linears of one, in run order."""
    out.mkdir()
    stages = worker.run(trace_job(bundle, out, INTO)).stages
    return {name: np.load(out / f"{file_name(name)}.npy") for name in stages}


def check_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert [name for name in found if "/" not in name] == [name for name in expected if "/" not in name]
    common = found.keys() & expected.keys()
    assert any("/" in name for name in common)
    noise = {name: similarity(expected[name], found[name]).sqnr for name in common}
    assert {name: each for name, each in noise.items() if each is not None and each < MIN_SQNR} == {}


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_openvino_has_the_stages_of_other_targets(bundle: Bundles, tmp_path: Path, family: str) -> None:
    pytest.importorskip("openvino")
    ours, other = (traced(bundle(family, "small", "fp32", target), tmp_path / target) for target in ("openvino", "cpu"))
    check_same(ours, other)


def test_a_cache_that_grows_has_the_stages_too(
    bundle: Bundles, checkpoint: Callable[[str, str], Path], tmp_path: Path
) -> None:
    grows = tmp_path / "grows"
    export(export_plan(checkpoint("qwen2_5_vl", "small"), grows, target="portable", precision="fp32", opset=17))
    other = bundle("qwen2_5_vl", "small", "fp32")
    check_same(*(traced(path, tmp_path / name) for name, path in (("one", grows), ("two", other))))
