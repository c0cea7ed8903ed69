"""Shards give the same bits wherever they are gathered, and equal a plain sum over all pages."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from qvl_export.errors import ExportError
from qvl_export.jobs.pool import Advance
from qvl_export.quant.calibration import cluster, shards
from qvl_export.quant.calibration import layerwise as calibrate
from qvl_export.quant.calibration.cluster import ClusterRunner, ShardJob
from qvl_export.quant.calibration.layer_session import open_session
from qvl_export.quant.calibration.shards import CapturedInput, CaptureRequest, LocalRunner, Runner
from qvl_export.quant.calibration.work_dir import Sample, Work
from qvl_export.quant.gptq import hessian as gram
from qvl_export.quant.statistics import Collector, Statistics

SIZE, PAGES, EXPERTS, CHOSEN = 300, 11, 5, 2
Floats = np.ndarray
REQUEST = CaptureRequest(
    [CapturedInput("doubled", "a.linear", True), CapturedInput("hidden_out", "b.linear", False)], PAGES, None, 0
)
ROUTED = msgspec.structs.replace(REQUEST, routed=("doubled", "scores"), chosen=CHOSEN)


class Pool:
    """Jobs of several machines, one after another in this process."""

    def __init__(self, machines: int) -> None:
        self.machines, self.cores = machines, 2 * machines
        self.done: list[list[tuple[int, int]]] = []

    def run(self, module: str, jobs: Sequence[msgspec.Struct], threads: int, advance: Advance) -> None:
        assert (module, threads) == ("qvl_export.quant.calibration.cluster", 2)
        for job in jobs:
            read = msgspec.json.decode(msgspec.json.encode(job), type=ShardJob)
            self.done.append(read.shards)
            cluster.run(read)


@pytest.fixture(autouse=True)
def three_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_PAGES", 3)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """hidden → doubled, what the next stage takes, and scores of tokens."""
    nodes = [
        helper.make_node("Add", ["hidden", "hidden"], ["doubled"]),
        helper.make_node("Tanh", ["doubled"], ["hidden_out"]),
        helper.make_node("Constant", [], ["first"], value_ints=[0, 0]),
        helper.make_node("Constant", [], ["last"], value_ints=[1 << 40, EXPERTS]),
        helper.make_node("Constant", [], ["axes"], value_ints=[1, 2]),
        helper.make_node("Slice", ["hidden", "first", "last", "axes"], ["some"]),
        helper.make_node("Constant", [], ["only"], value_ints=[0]),
        helper.make_node("Squeeze", ["some", "only"], ["scores"]),
    ]
    port = partial(helper.make_tensor_value_info, elem_type=TensorProto.FLOAT, shape=None)
    ports = [port(name) for name in ("doubled", "hidden_out", "scores")]
    hidden = helper.make_tensor_value_info("hidden", TensorProto.FLOAT, [1, "tokens", SIZE])
    graph = helper.make_graph(nodes, "stage", [hidden], ports)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


@pytest.fixture
def work(tmp_path: Path) -> Work:
    """Pages of different lengths, the first ten tokens of each an image's."""
    found, rng = Work(tmp_path / "work", {}), np.random.default_rng(0)
    places = {"image_positions": np.stack((np.zeros(10, np.int64), np.arange(10)), axis=-1)}
    sizes = rng.integers(20, 60, PAGES)
    found.begin(Sample(rng.standard_normal((1, size, SIZE)).astype(np.float32), places) for size in sizes)
    return found


def gathered(
    runner: Runner, model: Path, request: CaptureRequest = REQUEST
) -> tuple[list[Statistics], list[list[Floats]]]:
    """Statistics of every tap, and tokens and shares of every expert."""
    collectors, routed = request.collectors(), []
    for found in runner.statistics(model, request):
        for collector, part in zip(collectors, found.parts, strict=True):
            collector.join(part)
        routed += [found.routed] if found.routed else []
    sent = [[np.concatenate(pair, axis=1) for part in routed for pair in part.tokens(e, SIZE)] for e in range(EXPERTS)]
    return [collector.statistics() for collector in collectors], sent


def here(work: Work) -> LocalRunner:
    return LocalRunner(partial(work.samples, 0), work.directory)


def same(first: Statistics, second: Statistics) -> bool:
    return all(np.array_equal(a, b) if a is not None else b is None for a, b in zip(first, second, strict=True))


def test_shards_are_runs_of_pages_for_any_machines() -> None:
    assert shards.shards(PAGES) == [range(0, 3), range(3, 6), range(6, 9), range(9, 11)]


def test_shards_add_up_to_what_all_pages_at_once_do(model: Path, work: Work) -> None:
    """Maxima and kept tokens exactly, Hessians but for the order of summing."""
    first, second = (Collector(name, PAGES, hessian) for name, hessian in (("a", True), ("b", False)))
    for sample in work.samples(0):
        first.add(2 * sample.hidden[0])
        second.add(np.tanh(2 * sample.hidden[0]))
    (one, two), _ = gathered(here(work), model)
    whole = first.statistics()
    assert np.array_equal(one.largest, whole.largest) and np.array_equal(one.tokens, whole.tokens)
    np.testing.assert_allclose(one.hessian, whole.hessian, rtol=1e-4, atol=1e-3)
    assert two.hessian is None
    np.testing.assert_allclose(two.tokens, second.statistics().tokens, atol=1e-6)


@pytest.mark.parametrize("machines", [1, 2, 3, 9])
def test_any_number_of_machines_gives_the_same_bits(model: Path, work: Work, machines: int) -> None:
    pool = Pool(machines)
    alone, tokens = gathered(here(work), model, ROUTED)
    spread_out, theirs = gathered(ClusterRunner(pool, work, 0), model, ROUTED)
    assert all(map(same, alone, spread_out))
    for expert, (mine, other) in enumerate(zip(tokens, theirs, strict=True)):
        assert sum(map(len, mine)) > 0, expert
        assert all(np.array_equal(a, b) for a, b in zip(mine, other, strict=True))
    assert len(pool.done) == min(machines, 4)
    assert sorted(shard for part in pool.done for shard in part) == [(0, 3), (3, 6), (6, 9), (9, 11)]
    assert not list(work.directory.glob("shard.*")) and not list(work.directory.glob(".*"))


def test_machines_keep_what_the_next_stage_takes(model: Path, work: Work) -> None:
    expected = list(here(work).outputs(model))
    assert ClusterRunner(Pool(2), work, 0).outputs(model) == ()
    found = [sample.hidden for sample in work.samples(1)]
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.fixture
def alive(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many Hessians there were whenever another was begun."""
    begun: list[weakref.ref[Floats]] = []
    counts: list[int] = []
    original = gram.zeros

    def zeros(size: int) -> Floats:
        counts.append(sum(total() is not None for total in begun))
        begun.append(weakref.ref(total := original(size)))
        return total

    monkeypatch.setattr(gram, "zeros", zeros)
    return counts


def test_one_shard_is_in_the_memory_of_a_job(model: Path, work: Work, alive: list[int]) -> None:
    ClusterRunner(Pool(1), work, 0)._run(model, REQUEST)
    assert alive == [0, 0, 0, 0]


def test_a_machine_that_does_not_see_the_work_is_reported(model: Path, tmp_path: Path) -> None:
    elsewhere: Any = SimpleNamespace(directory=tmp_path / "elsewhere", pages=3)
    with pytest.raises(ExportError, match=r"/elsewhere: does not exist on .+ \(put OUT on a file system"):
        ClusterRunner(Pool(1), elsewhere, 0).outputs(model)


def test_a_killed_job_does_not_write_into_a_new_run(model: Path, work: Work, tmp_path: Path) -> None:
    """It is at its shard while the same directory is begun with other settings."""
    path = str(work.directory)
    other = Work(tmp_path / "work", {"samples": 3})
    with pytest.raises(ExportError):
        cluster.run(ShardJob(path, 0, str(model), REQUEST, [(0, 3)], 1))
    with pytest.raises(FileNotFoundError):
        work.keep(1, 0, np.zeros(3, np.float32))
    assert not list(other.directory.iterdir()) and [other.directory] == list((tmp_path / "work").iterdir())
    assert Work(tmp_path / "work", {"samples": 3}).directory == other.directory


def test_tokens_of_experts_are_there_once_they_are_whole(model: Path, work: Work) -> None:
    """A job of a killed run may be at the same shard."""
    tokens, samples = work.directory / "routed.0.bin", list(work.samples(0, range(3)))

    def interrupted() -> Iterator[Sample]:
        yield samples[0]
        assert shards.collect_shard(open_session(model), samples, ROUTED, tokens).routed
        yield from samples[1:]

    found = shards.collect_shard(open_session(model), interrupted(), ROUTED, tokens).routed
    assert found is not None
    expected = np.concatenate([2 * sample.hidden[0] for sample in samples])
    assert np.array_equal(np.fromfile(tokens, np.float32).reshape(-1, SIZE), expected)
    assert not list(work.directory.glob(".*"))


def test_one_shard_beside_the_sum_is_in_memory(model: Path, work: Work, alive: list[int]) -> None:
    def scheme(name: str) -> SimpleNamespace:
        return SimpleNamespace(hessian=name == "a.linear")

    tower: Any = SimpleNamespace(scheme=scheme, write=lambda *_: model, experts_per_token=0)
    stage: Any = SimpleNamespace(
        taps={captured.output: [captured.linear] for captured in REQUEST.inputs}, routed=None, experts={}
    )
    statistics, routed = calibrate.collect_statistics(tower, stage, work, here(work))
    assert list(statistics) == ["a.linear", "b.linear"] and not routed
    assert alive == [0, 1, 1, 1]
