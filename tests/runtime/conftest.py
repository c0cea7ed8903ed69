"""Fixtures that tests of the runtime share: models of random weights, and a PDF."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from qvl_runtime.answers.constrain import Grammars
from qvl_runtime.model import Model, load
from tests.conftest import Bundles


@pytest.fixture(scope="module")
def deep_path(bundle: Bundles) -> Path:
    return bundle("qwen2_5_vl", "deep", "fp32")


@pytest.fixture(scope="module")
def deep_model(deep_path: Path) -> Model:
    return load(deep_path, threads=1)


@pytest.fixture(scope="module")
def babbler(bundle: Bundles) -> Model:
    """Random weights: only the grammar shapes the answer."""
    return load(bundle("qwen2_5_vl", "deep", "fp32"), threads=1)


@pytest.fixture(scope="module")
def grammars(babbler: Model) -> Grammars:
    llm = babbler.manifest.llm
    return Grammars(
        (babbler.bundle / "tokenizer.json").read_text("utf-8"), llm.vocab_size, babbler.manifest.tokens.stop
    )


@pytest.fixture(params=["qwen2_5_vl", "qwen3_vl"])  # without and with DeepStack
def varied_path(bundle: Bundles, request: pytest.FixtureRequest) -> Path:
    return bundle(request.param, "deep", "fp32")  # not tied: greedy answers vary


@pytest.fixture
def fresh(varied_path: Path) -> Model:
    """A model with empty caches."""
    return load(varied_path, threads=1)


@pytest.fixture
def pdf(tmp_path: Path) -> Path:
    """Three pages of one color each, 72 × 144 points."""
    pages = [Image.new("RGB", (72, 144), color) for color in ("red", "lime", "blue")]
    path = tmp_path / "letter.pdf"
    pages[0].save(path, "PDF", save_all=True, append_images=pages[1:], resolution=72)
    return path
