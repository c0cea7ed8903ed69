"""Reads all pages of all documents: in order, a few at a time, each recorded before the next is counted."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from typing import Any

from .answer import named
from .inputs import Document
from .journal import Journal
from .progress import Progress
from .tasks import OpenPdfs, Record, Task, tasks_of
from .workers import Workers


@dataclass
class Summary:
    """Numbers of pages (frames and requests, too): answered now, known from an earlier run, copied from a page of the
    same content, failed; and of answers that looped or were cut off at the token limit."""

    answered: int = 0
    known: int = 0
    copied: int = 0
    failed: int = 0
    loops: int = 0
    cut: int = 0
    generated_tokens: int = 0

    def add(self, record: Record) -> None:
        """Counts a record."""
        if record.get("error") is not None:
            self.failed += 1
        elif "same_as" in record:
            self.copied += 1
        else:
            self.answered += 1
            self.loops += record["finish_reason"] == "loop"
            self.cut += record["finish_reason"] == "length"
            self.generated_tokens += record["tokens"]["generated"]

    def values(self) -> dict[str, Any]:
        """Returns the numbers by their names."""
        return asdict(self)


def read(
    documents: Sequence[Document],
    workers: Workers,
    journal: Journal,
    progress: Progress,
    pages: str | None = None,
    pdfs: OpenPdfs | None = None,
) -> Summary:
    """Answers what the journal does not have, and appends it in the order of the documents.

    At most two tasks per worker are on their way, so that memory does not depend on how many there are. A task whose
    content is on its way already waits for that answer, which is recorded before its turn comes.
    """
    journal.begin()
    summary, waiting, on_the_way = Summary(), deque[tuple[Task, Future[Record] | None]](), set[bytes]()

    def record_first() -> None:
        task, answer = waiting.popleft()
        record = (answer or _begin(task, journal, workers)).result()
        on_the_way.discard(task.key)
        journal.add(record)
        summary.add(record)
        progress.done(record.get("error") is not None)

    for task in _tasks(documents, pages, pdfs or OpenPdfs(), progress):
        if journal.known(task):
            summary.known += 1
            progress.skipped()
            continue
        repeated = task.sha256 is not None and task.key in on_the_way
        waiting.append((task, None if repeated else _begin(task, journal, workers)))
        on_the_way.add(task.key)
        while len(waiting) >= 2 * workers.count or (waiting and _is_ready(*waiting[0])):
            record_first()
    while waiting:
        record_first()
    return summary


def _tasks(documents: Sequence[Document], pages: str | None, pdfs: OpenPdfs, progress: Progress) -> Iterator[Task]:
    for document in documents:
        yield from tasks_of(document, pages, pdfs, progress.opened)


def _is_ready(_: Task, answer: Future[Record] | None) -> bool:
    return answer is None or answer.done()


def _begin(task: Task, journal: Journal, workers: Workers) -> Future[Record]:
    """Starts a task; one whose content has been answered gets the record of that one."""
    twin = journal.twin(task)
    if twin is None:
        return workers.submit(task)
    copied = {key: value for key, value in twin.items() if key not in ("seconds", "run")}
    copied |= named(task) | {"same_as": twin.get("same_as", twin["file"])}
    future = Future[Record]()
    future.set_result(copied)
    return future
