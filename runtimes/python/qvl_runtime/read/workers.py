"""Workers that answer tasks at the same time: forks of one model, each in a thread of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Protocol

from ..model import Model
from ..requests.notes import routed
from .answer import Answerer
from .options import ReadOptions
from .tasks import OpenPdfs, Record, Task


class Workers(Protocol):
    """Where tasks are answered, `count` at the same time; each may have one more waiting."""

    count: int

    def submit(self, task: Task) -> Future[Record]:
        """Returns the record of a task once it is there; whatever fails is in the record."""


class LocalWorkers:
    """Forks of one model, which share its weights."""

    def __init__(self, model: Model, options: ReadOptions, count: int, pdfs: OpenPdfs) -> None:
        self.count, self._free = count, SimpleQueue[Answerer]()
        self._forks = [model.fork() for _ in range(count - 1)]
        self._answerers = [Answerer(each, options, pdfs) for each in (model, *self._forks)]
        for answerer in self._answerers:
            self._free.put(answerer)
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="reader")

    def submit(self, task: Task) -> Future[Record]:
        """See `Workers.submit`."""
        return self._threads.submit(self._answer, task)

    def _answer(self, task: Task) -> Record:
        answerer = self._free.get()
        try:
            return answerer.answer(task)
        finally:
            self._free.put(answerer)

    def close(self) -> None:
        """Ends what runs at its next token, and frees the forks."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for answerer in self._answerers:
            answerer.stop()
        self._threads.shutdown()
        for fork in self._forks:
            fork.close()


@contextlib.contextmanager
def local_workers(model: Model, options: ReadOptions, count: int, pdfs: OpenPdfs) -> Iterator[Workers]:
    """Yields `count` workers over a model; raises PromptError, before any page, for options that none can take."""
    Answerer(model, options, pdfs).check()
    workers = LocalWorkers(model, options, count, pdfs)
    try:
        with routed():
            yield workers
    finally:
        workers.close()
