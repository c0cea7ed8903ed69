"""Engines are found by target; a closed one says so; the cache of `portable` is masked causally."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from qvl_runtime import sessions
from qvl_runtime.bundle import read_manifest
from qvl_runtime.errors import BundleError, EngineError
from qvl_runtime.positions import Grid
from qvl_runtime.sessions import portable
from qvl_runtime.sessions.engine import raise_closed

BUNDLE = Path(__file__).parents[1] / "checkpoints" / "bundles" / "v6"


def test_targets_are_the_modules_that_open_an_engine() -> None:
    assert sessions.available() == ["cpu", "cuda", "openvino", "portable", "tensorrt", "tensorrt_rtx", "web"]
    assert sessions.cores() >= 1


def test_an_unknown_target_is_refused() -> None:
    manifest = msgspec.structs.replace(read_manifest(BUNDLE), target="abacus")
    with pytest.raises(BundleError, match="is for target 'abacus'; this runtime has cpu, "):
        sessions.open_engine(BUNDLE, manifest, 1)


def test_a_closed_engine_says_so() -> None:
    engine = sessions.open_engine(BUNDLE, manifest := read_manifest(BUNDLE), 1)
    pixels = np.zeros((1, 16, manifest.image.patch_dim), np.float32)
    assert engine.encode(pixels, Grid(1, 4, 4)).shape == (1, 4, manifest.llm.hidden_size)
    engine.close()
    with pytest.raises(EngineError, match="the model is closed"):
        engine.encode(pixels, Grid(1, 4, 4))
    with pytest.raises(EngineError, match="the model is closed"):
        raise_closed(1, two=3)


def test_new_tokens_see_the_cache_and_one_another_causally() -> None:
    state = portable.cache_state(past=2, total=5, capacity=8)
    mask = state["attention_mask"][0, 0]
    assert state["write_indices"].tolist() == [2] and mask.shape == (3, 8)
    assert [[column <= 2 + row for column in range(8)] for row in range(3)] == mask.tolist()
