"""Bundles of target `openvino`: what OpenVINO's plugin for CPUs executes, prefix reuse, and refusals."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from qvl_runtime.bundle import read_manifest
from qvl_runtime.errors import BundleError, EngineError, InstallError
from qvl_runtime.model import load
from qvl_runtime.sessions import openvino
from tests.conftest import Bundles
from tests.exporter.test_parity import one_image
from tests.oracles.tiny import SHAPES

MESSAGES = [{"role": "user", "content": one_image()}]


def executed(request: Any) -> Counter[str]:
    """How often the compiled graph of a request has each kind of node."""
    nodes = request.get_compiled_model().get_runtime_model().get_ordered_ops()
    return Counter(node.get_rt_info()["layerType"].value for node in nodes)


@pytest.fixture
def tiny_bundle(bundle: Bundles, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    pytest.importorskip("openvino")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return bundle("qwen2_5_vl", "small", "fp16", "openvino")


def test_attention_is_fused_with_its_cache(tiny_bundle: Path) -> None:
    with load(tiny_bundle, threads=1) as model:
        kinds = executed(model.engine.llm._request)
    assert kinds["ScaledDotProductAttention"] == SHAPES["small"].layers
    assert kinds["RoPE"] == 2 * SHAPES["small"].layers
    assert not kinds["Softmax"]


def test_a_cached_prefix_gives_the_same_logits(tiny_bundle: Path) -> None:
    with load(tiny_bundle, threads=1) as model:
        long, short = (model.logits(MESSAGES, answer=text) for text in ("Total: 12.50 EUR", "Total: 12"))
        again = model.logits(MESSAGES, answer="Total: 12.50 EUR")
        model.engine.clear()
        fresh = model.logits(MESSAGES, answer="Total: 12")
    assert np.abs(again - long).max() < 1e-3
    assert np.abs(fresh - short).max() < 1e-3


def test_compiled_graphs_are_kept_in_the_users_cache(tiny_bundle: Path, tmp_path: Path) -> None:
    load(tiny_bundle, threads=1).close()
    assert any((tmp_path / "qvl-runtime" / "openvino").iterdir())


def test_a_device_that_is_not_there(tiny_bundle: Path) -> None:
    with pytest.raises(EngineError, match=r"finds no device 'NPU' here \(one of CPU, AUTO\)"):
        openvino.open(tiny_bundle, read_manifest(tiny_bundle), 1, "NPU")


def test_a_damaged_graph(tiny_bundle: Path, tmp_path: Path) -> None:
    manifest = read_manifest(tiny_bundle)
    (tmp_path / "vision.onnx").write_bytes(b"not a graph")
    with pytest.raises(BundleError, match=r"vision.onnx: OpenVINO rejects it"):
        openvino.open(tmp_path, manifest, 1)


def test_a_closed_model(tiny_bundle: Path) -> None:
    model = load(tiny_bundle, threads=1)
    model.close()
    with pytest.raises(EngineError, match="the model is closed"):
        model.logits(MESSAGES, answer="Total")


@pytest.mark.parametrize(
    ("module", "problem"),
    [
        (None, "OpenVINO is not installed"),
        (SimpleNamespace(__version__="2025.4.1-20426-abc"), "OpenVINO 2025.4.1-20426-abc is too old: 2026.2 is needed"),
    ],
)
def test_a_library_that_is_missing_or_old(
    bundle: Bundles, monkeypatch: pytest.MonkeyPatch, module: Any, problem: str
) -> None:
    path = bundle("qwen2_5_vl", "small", "fp16", "openvino")
    monkeypatch.setitem(sys.modules, "openvino", module)
    with pytest.raises(InstallError, match=problem):
        openvino.open(path, read_manifest(path), 1)


def test_its_cache_is_concatenated(bundle: Bundles) -> None:
    assert read_manifest(bundle("qwen2_5_vl", "small", "fp16", "openvino")).cache_form == "concat"
