"""Which pages are given to workers, and which get the answer of another page."""

from __future__ import annotations

import json
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from qvl_runtime.read.answer import named
from qvl_runtime.read.inputs import find_documents
from qvl_runtime.read.journal import Journal
from qvl_runtime.read.progress import Progress
from qvl_runtime.read.run import Summary, read
from qvl_runtime.read.tasks import Record, Task


class Held:
    """Workers that answer only when they are asked for a result: all tasks are on their way at the same time."""

    count = 4

    def __init__(self, failing: int = 0) -> None:
        self.given, self._failing = list[str](), failing

    def submit(self, task: Task) -> Future[Record]:
        self.given.append(Path(task.file).name)
        failed = len(self.given) <= self._failing
        answer = {"error": "no"} if failed else {"answer": "a", "finish_reason": "stop", "tokens": {"generated": 1}}
        held, record = Future[Record](), named(task) | answer
        held.result = lambda timeout=None: record  # type: ignore[method-assign]
        return held


def read_with(workers: Any, folder: Path, out: Path) -> tuple[Summary, list[dict[str, Any]]]:
    documents = find_documents([str(folder)])
    with Journal(out, "f" * 16) as journal:
        summary = read(documents, workers, journal, Progress(len(documents), quiet=True))
    return summary, [json.loads(line) for line in out.read_text("utf-8").splitlines()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Neighbors of the same content, and one of its own."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for name, color in (("1.png", "red"), ("2.png", "red"), ("3.png", "lime"), ("4.png", "red")):
        Image.new("RGB", (32, 32), color).save(folder / name)
    return folder


def test_neighbors_of_the_same_content_are_read_once(folder: Path, tmp_path: Path) -> None:
    workers = Held()
    summary, records = read_with(workers, folder, tmp_path / "a.jsonl")
    assert workers.given == ["1.png", "3.png"] and (summary.answered, summary.copied) == (2, 2)
    assert [Path(each["file"]).name for each in records] == ["1.png", "2.png", "3.png", "4.png"]
    assert [Path(each.get("same_as", "-")).name for each in records] == ["-", "1.png", "-", "1.png"]


def test_a_failure_is_not_copied_to_neighbors(folder: Path, tmp_path: Path) -> None:
    workers = Held(failing=1)
    summary, records = read_with(workers, folder, tmp_path / "a.jsonl")
    assert workers.given == ["1.png", "3.png", "2.png"]
    assert (summary.failed, summary.answered, summary.copied) == (1, 2, 1)
    assert [Path(each.get("same_as", "-")).name for each in records] == ["-", "-", "-", "2.png"]
