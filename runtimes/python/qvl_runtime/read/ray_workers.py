"""Workers on the machines of a Ray cluster, each a process with a model of its own.

Every machine must see the bundle and the documents under the same paths and have qvl-runtime installed.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..common.ray_connection import connected, machine_cores
from ..errors import EngineError, PromptError, QvlError
from ..model import load
from ..printable import one_line
from ..requests.notes import routed
from .answer import Answerer, named
from .options import ReadOptions
from .tasks import OpenPdfs, Record, Task, said

LOST = "the cluster lost two workers with this page; run the command again"
NO_WORKERS = "the Ray cluster has lost all workers"
TRIES = 2
"""How often a page is given to a worker: one whose machine is lost did not cause that."""


class Reader:
    """One worker: a model on one machine of the cluster."""

    def __init__(self, bundle: Path, options: ReadOptions, threads: int | None, device: str | None) -> None:
        self._arguments, self._options = (bundle, threads, options.prune, device), options
        self._answerer: Answerer | None = None

    def open(self) -> str | None:
        """Loads the model; returns what is wrong with the bundle or the options."""
        try:
            self._answerer = Answerer(load(*self._arguments), self._options, OpenPdfs())
            self._answerer.check()
        except QvlError as error:
            return str(error)
        return None

    def answer(self, task: Task) -> Record:
        """Returns the record of a task, once the worker is open."""
        if self._answerer is None:
            raise RuntimeError("the worker was not opened")
        with routed():
            return self._answerer.answer(task)


class RayWorkers:
    """Actors of a cluster; a task goes to the one with the fewest, and once to another if that one is lost."""

    def __init__(self, ray: Any, readers: list[Any]) -> None:
        self.count, self._ray = len(readers), ray
        self._tasks, self._lock = dict.fromkeys(readers, 0), threading.Lock()
        """Actor that is not lost → how many tasks it has."""
        self._retries = ThreadPoolExecutor(1, thread_name_prefix="retries")
        """Gives tasks to actors again: Ray's own thread, in which results arrive, must not wait for Ray."""

    def submit(self, task: Task) -> Future[Record]:
        """See `workers.Workers.submit`; the future raises EngineError if there is no worker any more."""
        found = Future[Record]()
        self._give(task, found, TRIES)
        return found

    def close(self) -> None:
        """Gives no task again."""
        self._retries.shutdown(wait=False, cancel_futures=True)

    def _give(self, task: Task, found: Future[Record], tries: int) -> None:
        with self._lock:
            reader = min(self._tasks, key=self._tasks.__getitem__, default=None)
            if reader is not None:
                self._tasks[reader] += 1
        if reader is None:
            found.set_exception(EngineError(NO_WORKERS, fix="run the command again to continue"))
            return
        given: Future[Record] = reader.answer.remote(task).future()
        given.add_done_callback(lambda done: self._ended(reader, task, done, found, tries - 1))

    def _ended(self, reader: Any, task: Task, done: Future[Record], found: Future[Record], tries: int) -> None:
        error = done.exception()
        lost = isinstance(error, self._ray.exceptions.RayError) and not isinstance(
            error, self._ray.exceptions.RayTaskError
        )
        with self._lock:
            if lost:
                self._tasks.pop(reader, None)
            elif reader in self._tasks:
                self._tasks[reader] -= 1
        if error is None:
            found.set_result(done.result())
        elif not lost:
            found.set_result(named(task) | {"error": one_line(said(getattr(error, "cause", None) or error))})
        elif tries:
            with contextlib.suppress(RuntimeError):  # closed meanwhile
                self._retries.submit(self._give, task, found, tries)
        else:
            found.set_result(named(task) | {"error": LOST})


@contextlib.contextmanager
def ray_workers(
    address: str, bundle: Path, options: ReadOptions, count: int | None, threads: int | None, device: str | None
) -> Iterator[RayWorkers]:
    """Yields `count` workers on the cluster at `address` (`HOST:PORT` or `auto`), by default one per machine.

    Raises InstallError without Ray, EngineError if no cluster answers or its machines have too few cores, PromptError
    for what the workers refuse.
    """
    ray = connected(address)
    try:
        machines = machine_cores(ray)
        cores = min(threads, max(machines)) if threads else min(machines)
        wanted = count or len(machines)
        if wanted > (room := sum(machine // cores for machine in machines)):
            fix = f"give --workers {room} or fewer --threads"
            raise EngineError(f"the Ray cluster has room for {room} workers of {cores} cores, not {wanted}", fix=fix)
        # an actor that is started anew waits for cores that its machine took with it, and all its tasks wait with it
        actor = ray.remote(Reader).options(num_cpus=cores, max_restarts=0)
        readers = [actor.remote(bundle.absolute(), options, cores, device) for _ in range(wanted)]
        for problem in ray.get([reader.open.remote() for reader in readers]):
            if problem is not None:
                raise PromptError(problem)
        workers = RayWorkers(ray, readers)
        try:
            yield workers
        finally:
            workers.close()
    finally:
        ray.shutdown()
