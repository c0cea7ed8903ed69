"""Workers on the machines of a Ray cluster, each a process with a model of its own.

Every machine must see the bundle and the documents under the same paths and have qvl-runtime installed.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from ..common.ray_connection import connected
from ..errors import EngineError, PromptError, QvlError
from ..model import load
from ..serve.notes import routed
from .answer import Answerer, named
from .options import ReadOptions
from .tasks import OpenPdfs, Record, Task

LOST = "the cluster lost the worker of this page; run the command again"


class Reader:
    """One worker: a model on one machine of the cluster."""

    def __init__(self, bundle: Path, options: ReadOptions, threads: int | None, device: str | None) -> None:
        self._arguments, self._options = (bundle, threads, options.prune, device), options
        self._answerer: Answerer | None = None

    def open(self) -> str | None:
        """Loads the model; returns what is wrong with the bundle or the options."""
        try:
            self._ready().check()
        except QvlError as error:
            return str(error)
        return None

    def answer(self, task: Task) -> Record:
        """Returns the record of a task."""
        with routed():
            return self._ready().answer(task)

    def _ready(self) -> Answerer:
        """Loads the model if this process has none: it may have been started anew."""
        if self._answerer is None:
            self._answerer = Answerer(load(*self._arguments), self._options, OpenPdfs())
        return self._answerer


class RayWorkers:
    """Actors of a cluster; a task goes to the one with the fewest."""

    def __init__(self, ray: Any, readers: list[Any]) -> None:
        self.count, self._ray, self._readers = len(readers), ray, readers
        self._busy, self._lock = [0] * len(readers), threading.Lock()

    def submit(self, task: Task) -> Future[Record]:
        """See `workers.Workers.submit`."""
        with self._lock:
            index = min(range(self.count), key=self._busy.__getitem__)
            self._busy[index] += 1
        given, found = self._readers[index].answer.remote(task).future(), Future[Record]()
        given.add_done_callback(lambda done: self._ended(index, task, done, found))
        return found

    def _ended(self, index: int, task: Task, done: Future[Record], found: Future[Record]) -> None:
        with self._lock:
            self._busy[index] -= 1
        error = done.exception()
        if error is None:
            found.set_result(done.result())
        elif isinstance(error, self._ray.exceptions.RayError):
            found.set_result(named(task) | {"error": LOST})
        else:
            found.set_exception(error)


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
        machines = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
        most = max(machines, default=0)
        if not most:
            raise EngineError("the Ray cluster has no cores", fix="start its nodes with --num-cpus of one or more")
        cores = min(threads, most) if threads else min(filter(None, machines))
        wanted = count or sum(map(bool, machines))
        if wanted > (room := sum(machine // cores for machine in machines)):
            fix = f"give --workers {room} or fewer --threads"
            raise EngineError(f"the Ray cluster has room for {room} workers of {cores} cores, not {wanted}", fix=fix)
        actor = ray.remote(Reader).options(num_cpus=cores, max_restarts=1, max_task_retries=1)
        readers = [actor.remote(bundle.absolute(), options, cores, device) for _ in range(wanted)]
        for problem in ray.get([reader.open.remote() for reader in readers]):
            if problem is not None:
                raise PromptError(problem)
        yield RayWorkers(ray, readers)
    finally:
        ray.shutdown()
