"""The runner starts processes for missing answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from qvl_export.common.progress import NullProgress
from qvl_export.evaluate.answers import answer_runner
from qvl_export.evaluate.answers.answer_runner import WORKER_MODULE, AnswerRunner
from qvl_export.evaluate.answers.endpoint_names import Endpoint
from qvl_export.evaluate.answers.models import Model
from qvl_export.evaluate.answers.records import Cost, Record, record_writer
from qvl_export.evaluate.answers.worker import AnswerJob
from qvl_export.evaluate.sets.dataset import EvalSet


@dataclass
class RecordingPool:
    """A pool that only records the jobs that it gets."""

    machines: int = 1
    cores: int = 2
    jobs: list[AnswerJob] = field(default_factory=list)

    def run(self, module: str, jobs: Sequence[msgspec.Struct], threads: int, advance: Callable[[int], None]) -> None:
        assert module == WORKER_MODULE
        self.jobs += [job for job in jobs if isinstance(job, AnswerJob)]


@pytest.fixture
def pool() -> RecordingPool:
    return RecordingPool()


@pytest.fixture
def runner(pool: RecordingPool, tmp_path: Path) -> AnswerRunner:
    return AnswerRunner(tmp_path, pool, NullProgress(), 2, 1, None, {})


MODEL = Model(Path("bundle"), "bundle", "bundle", "key")


def test_each_worker_has_a_job_of_its_own(runner: AnswerRunner, pool: RecordingPool, chosen: EvalSet) -> None:
    Cost(1, 10).save(runner.directory, "a", 2)
    runner.answer(MODEL, "a", chosen, 1)
    assert [(job.rank, job.workers, job.name) for job in pool.jobs] == [(0, 2, "a"), (1, 2, "a")]
    shares = [{item.index for item in job.items()} for job in pool.jobs]
    assert shares[0] | shares[1] == set(range(chosen.count)) and not shares[0] & shares[1]
    assert Cost.load(runner.directory, "a") is None, "the cost of a third process is that of an earlier run"


def test_servers_are_asked_from_this_machine(
    runner: AnswerRunner, pool: RecordingPool, chosen: EvalSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a cluster, 127.0.0.1 would be another machine and the key's variable not set."""
    here = RecordingPool()
    monkeypatch.setattr(answer_runner, "ThisMachine", lambda: here, raising=False)
    runner.answer(Model(Path("bundle"), "endpoint", "a", "key", endpoint=Endpoint("a", "http://h/v1")), "a", chosen, 1)
    assert not pool.jobs and len(here.jobs) == 2


def test_nothing_runs_if_no_answer_is_missing(runner: AnswerRunner, pool: RecordingPool, chosen: EvalSet) -> None:
    with record_writer(runner.directory, "a", 0) as append:
        for index in range(chosen.count):
            append(Record(item=index, answer="x"))
    assert runner.missing("a", chosen) == 0
    runner.answer(MODEL, "a", chosen, 1)
    assert not pool.jobs
    runner.answer(MODEL, "a", chosen, 1, reference=True, even_if_complete=True)
    assert len(pool.jobs) == 2 and all(job.reference for job in pool.jobs)
