"""Reading on a Ray cluster of two machines (two nodes here) gives what one process gives, also if one is lost."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from qvl_runtime import __main__ as cli
from qvl_runtime.errors import BundleError, EngineError
from qvl_runtime.read.options import ReadOptions
from qvl_runtime.read.ray_workers import LOST, RayWorkers, ray_workers
from qvl_runtime.read.tasks import Record, Task


@pytest.fixture
def arguments(bundle: Callable[..., Path], tmp_path: Path) -> list[str]:
    scans = tmp_path / "scans"
    scans.mkdir()
    for number in range(6):
        Image.new("RGB", (84, 56), (40 * number, 9, 200)).save(scans / f"{number}.png")
    (scans / "broken.png").write_bytes(b"x")
    tiny = bundle("qwen2_5_vl", "deep", "fp32")
    return ["read", str(tiny), str(scans), "--prompt", "Read.", "--max-new-tokens", "5", "--quiet"]


def answers(path: Path) -> list[tuple[Any, ...]]:
    found = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [(each["file"], each["page"], each.get("answer"), each.get("error")) for each in found]


@pytest.mark.slow
def test_a_cluster_answers_as_one_process(ray_cluster: str, arguments: list[str], tmp_path: Path) -> None:
    alone, spread = tmp_path / "alone.jsonl", tmp_path / "spread.jsonl"
    assert cli.main([*arguments, "--out", str(alone), "--threads", "1"]) == 1
    assert cli.main([*arguments, "--out", str(spread), "--ray", ray_cluster]) == 1
    assert answers(spread) == answers(alone) and len(answers(alone)) == 7


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--workers", "3"], "has room for 2 workers of 1 cores, not 3 (give --workers 2"),
        (["--temperature", "-1"], "temperature"),
    ],
)
def test_what_workers_refuse_is_one_line(
    ray_cluster: str,
    arguments: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    problem: str,
) -> None:
    out = tmp_path / "a.jsonl"
    assert cli.main([*arguments, "--out", str(out), "--ray", ray_cluster, *options]) == 2
    error = capsys.readouterr().err
    assert problem in error and error.count("\n") == 1 and not out.exists()


def test_a_cluster_that_is_not_there_is_one_line(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray", reason="ray is not installed")
    assert cli.main([*arguments, "--out", str(tmp_path / "a.jsonl"), "--ray", "127.0.0.1:1"]) == 2
    assert "127.0.0.1:1: no Ray cluster answers" in capsys.readouterr().err


def test_without_ray_the_extra_is_named(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert cli.main([*arguments, "--out", str(tmp_path / "a.jsonl"), "--ray", "auto"]) == 2
    assert "which is the extra qvl-runtime[ray]" in capsys.readouterr().err


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause: Exception) -> None:
        super().__init__("a long traceback")
        self.cause = cause


class Actor:
    """Stands for an actor: answers at once, with an exception if it has one."""

    def __init__(self, error: Exception | None = None) -> None:
        self.answer, self.given, self._error = self, list[Task](), error

    def remote(self, task: Task) -> SimpleNamespace:
        self.given.append(task)
        future = Future[Record]()
        if self._error is not None:
            future.set_exception(self._error)
        else:
            future.set_result({"file": task.file, "answer": "a"})
        return SimpleNamespace(future=lambda: future)


RAY = SimpleNamespace(exceptions=SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError))


def some_tasks(count: int) -> list[Task]:
    return [Task(f"{number}.png", f"/{number}.png", "image", 1, "aa") for number in range(count)]


def test_a_lost_worker_gets_no_more_pages_and_its_page_goes_to_another() -> None:
    dead, alive = Actor(RayError("died")), Actor()
    workers = RayWorkers(RAY, [dead, alive])
    found = [workers.submit(task).result(10) for task in some_tasks(6)]
    assert all(record["answer"] == "a" for record in found)
    assert len(dead.given) == 1 and len(alive.given) == 6


def test_a_page_that_two_workers_were_lost_with_has_an_error() -> None:
    workers = RayWorkers(RAY, [Actor(RayError("died")), Actor(RayError("died")), Actor()])
    first, second = (workers.submit(task).result(10) for task in some_tasks(2))
    assert first["error"] == LOST and first["file"] == "0.png" and second["answer"] == "a"


def test_without_any_worker_the_run_ends() -> None:
    workers = RayWorkers(RAY, [Actor(RayError("died"))])
    for task in some_tasks(2):
        with pytest.raises(EngineError, match="has lost all workers"):
            workers.submit(task).result(10)


def test_what_a_worker_raises_is_in_the_record() -> None:
    """The worker is not lost."""
    reader = Actor(RayTaskError(BundleError("no bundle", where="/b")))
    workers = RayWorkers(RAY, [reader])
    assert [workers.submit(task).result(10)["error"] for task in some_tasks(2)] == ["/b: no bundle"] * 2
    assert len(reader.given) == 2


@pytest.mark.slow
def test_pages_of_a_worker_that_is_killed_are_answered_by_another(
    ray_cluster: str, bundle: Callable[..., Path], arguments: list[str]
) -> None:
    import ray

    tasks = [Task(path.name, str(path), "image", 1, "aa") for path in sorted(Path(arguments[2]).glob("?.png"))]
    options = ReadOptions(prompt="Read.", settings={"max_new_tokens": 5})
    with ray_workers(ray_cluster, bundle("qwen2_5_vl", "deep", "fp32"), options, 2, 1, None) as workers:
        ray.kill(next(iter(workers._tasks)))
        found = [future.result(120) for future in [workers.submit(task) for task in tasks]]
    assert len(found) == 6 and not any("error" in record for record in found)
