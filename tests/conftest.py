"""Fixtures shared by all tests: tiny checkpoints and their bundles, created once per session."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol
from unittest import mock

import pytest
from transformers import PreTrainedModel

from qvl_export import ExportPlan, export, targets
from qvl_export.quant.precision import FLOATS
from qvl_runtime.errors import InstallError
from qvl_runtime.model import Model, load
from qvl_runtime.sessions import cpu, cuda
from tests.checkpoints.reader import FAMILIES
from tests.oracles import families, tiny
from tests.plans import export_plan

REFERENCE = tiny.REFERENCE

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a background shell's; processes that tests interrupt inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
GRAPH_TARGETS = [name for name in targets.available() if not targets.builds_engines(name)]
"""Targets whose bundles hold ONNX graphs, which tests can read and run without a GPU."""


class Loader(Protocol):
    """The loaded bundle of a family, shape, precision and target."""

    def __call__(self, family: str, shape: str, precision: str, target: str = "cpu") -> Model: ...


class Bundles(Protocol):
    """The directory of that bundle."""

    def __call__(self, family: str, shape: str, precision: str, target: str = "cpu") -> Path: ...


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
def bundle(checkpoint: Callable[[str, str], Path], tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    """The directory of its bundle at a precision, for a target."""
    cache: dict[tuple[str, ...], Path] = {}

    def get(family: str, shape: str, precision: str, target: str = "cpu") -> Path:
        key = family, shape, precision, target
        if target in ("cuda", "web") and families.find(family).experts:
            pytest.skip(f"experts are not supported on {target}")
        if target == "web" and families.find(family).recurrent(tiny.SHAPES[shape]):
            pytest.skip("linear attention is not supported on web")
        if key not in cache:
            out = tmp_path_factory.mktemp("bundles") / "-".join(key)
            export(ExportPlan(checkpoint(family, shape), out, precision=precision, target=target))
            cache[key] = out
        return cache[key]

    return get


@pytest.fixture(scope="session")
def model(bundle: Bundles, tmp_path_factory: pytest.TempPathFactory) -> Loader:
    """The loaded bundle, on one thread."""
    cache: dict[tuple[str, ...], Model] = {}
    compiled = {"XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache"))}

    def get(family: str, shape: str, precision: str, target: str = "cpu") -> Model:
        key = family, shape, precision, target
        if key not in cache:
            try:
                with mock.patch.dict(os.environ, compiled), mock.patch.object(cuda, "open", cpu.open):  # on a CPU
                    cache[key] = load(bundle(*key), threads=1)
            except InstallError as error:
                pytest.skip(f"the engine of {target} is not installed: {error}")
        return cache[key]

    return get


@pytest.fixture(scope="session")
def reader_bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """The trained checkpoint of a family, exported to a precision; quantized towers are calibrated on 24 pages."""
    cache: dict[tuple[str, str], Path] = {}

    def get(family: str, precision: str) -> Path:
        key = family, precision
        if key not in cache:
            out = tmp_path_factory.mktemp("readers") / "-".join(key)
            options = {} if precision in FLOATS else {"samples": 24}
            export(export_plan(FAMILIES[family].directory, out, precision=precision, **options))
            cache[key] = out
        return cache[key]

    return get


@pytest.fixture(scope="session")
def reference_bundle(reader_bundle: Callable[[str, str], Path]) -> Path:
    """The trained reference checkpoint, exported to fp16."""
    return reader_bundle("qwen2_5_vl", "fp16")


@pytest.fixture(scope="session")
def int4_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in int4, calibrated on eight pages."""
    out = tmp_path_factory.mktemp("reference") / "int4"
    export(export_plan(REFERENCE, out, precision="int4", samples=8))
    return out


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """The address of a Ray cluster of two nodes of one core each, both on this machine."""
    pytest.importorskip("ray", reason="ray is not installed: nothing of --ray is tested (make setup)")
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 80 << 20}
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:  # its processes keep the environment that they are started in
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), prepend=os.pathsep)
        nodes = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
        nodes.add_node(**node)
        nodes.wait_for_nodes()
    signal.signal(signal.SIGTERM, handler)  # Ray's own would end the test run in tests that send the signal
    yield nodes.address
    with contextlib.suppress(Exception):
        nodes.shutdown()
