"""Fixtures shared by all tests: tiny checkpoints and their bundles, made once a session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from qvl_export import ExportPlan, export
from qvl_runtime.model import Model, load
from tests.checkpoints.reader import FAMILIES
from tests.oracles import tiny

REFERENCE = tiny.REFERENCE

Loader = Callable[[str, str, str], Model]


@pytest.fixture(scope="session")
def oracle() -> Callable[[str, str], PreTrainedModel]:
    """The transformers model of a family and shape."""
    cache: dict[tuple[str, str], PreTrainedModel] = {}

    def get(family: str, shape: str) -> PreTrainedModel:
        key = family, shape
        if key not in cache:
            cache[key] = tiny.build(family, tiny.SHAPES[shape])
        return cache[key]

    return get


@pytest.fixture(scope="session")
def checkpoint(
    oracle: Callable[[str, str], PreTrainedModel], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Path]:
    """The directory of that model's checkpoint."""
    cache: dict[tuple[str, str], Path] = {}

    def get(family: str, shape: str) -> Path:
        key = family, shape
        if key not in cache:
            cache[key] = tiny.save(oracle(*key), tmp_path_factory.mktemp(f"{family}-{shape}"))
        return cache[key]

    return get


@pytest.fixture(scope="session")
def bundle(
    checkpoint: Callable[[str, str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str, str], Path]:
    """The directory of its bundle at a precision."""
    cache: dict[tuple[str, str, str], Path] = {}

    def get(family: str, shape: str, precision: str) -> Path:
        key = family, shape, precision
        if key not in cache:
            out = tmp_path_factory.mktemp("bundles") / "-".join(key)
            export(ExportPlan(checkpoint(family, shape), out, precision=precision))
            cache[key] = out
        return cache[key]

    return get


@pytest.fixture(scope="session")
def model(bundle: Callable[[str, str, str], Path]) -> Loader:
    """The loaded bundle, on one thread."""
    cache: dict[tuple[str, str, str], Model] = {}

    def get(family: str, shape: str, precision: str) -> Model:
        key = family, shape, precision
        if key not in cache:
            cache[key] = load(bundle(*key), threads=1)
        return cache[key]

    return get


@pytest.fixture(scope="session")
def reader_bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """The trained checkpoint of a family, exported to a precision; 24 pages calibrate what is quantized."""
    cache: dict[tuple[str, str], Path] = {}

    def get(family: str, precision: str) -> Path:
        key = family, precision
        if key not in cache:
            out = tmp_path_factory.mktemp("readers") / "-".join(key)
            export(ExportPlan(FAMILIES[family].directory, out, precision=precision, samples=24))
            cache[key] = out
        return cache[key]

    return get


@pytest.fixture(scope="session")
def reference_bundle(reader_bundle: Callable[[str, str], Path]) -> Path:
    """The trained reference checkpoint, exported to fp16."""
    return reader_bundle("qwen2_5_vl", "fp16")
