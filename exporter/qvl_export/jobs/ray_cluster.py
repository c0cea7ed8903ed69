"""Runs jobs on the machines of a Ray cluster, see `pool.Pool`.

Every machine must see models, pages and results under the same paths (a network file system) and have qvl-export
installed: a job is the same process there as on this machine.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from qvl_runtime.common import ray_connection
from qvl_runtime.errors import QvlError
from qvl_runtime.printable import first_line

from ..common.log import log
from ..errors import ExportError, StoppedError
from .pool import Advance, JobCrashed, Pool, as_they_end, start_job


@contextlib.contextmanager
def cluster(address: str) -> Iterator[Pool]:
    """Yields the cluster at `address` (`HOST:PORT` or `auto`); raises ExportError if none answers."""
    with _refused():
        ray = ray_connection.connected(address)
    try:
        yield RayPool(ray)
    finally:
        ray.shutdown()


def check(address: str) -> None:
    """Raises ExportError if Ray is not installed or nothing listens at `address`."""
    with _refused():
        ray_connection.check(address)


@contextlib.contextmanager
def _refused() -> Iterator[None]:
    """Turns errors of the runtime into ExportError."""
    try:
        yield
    except QvlError as error:
        raise ExportError(error.what, where=error.where, fix=error.fix) from error


class RayPool:
    """Runs as many jobs at the same time as the cluster has cores for; the others wait."""

    def __init__(self, ray: Any) -> None:
        with _refused():
            counts = ray_connection.machine_cores(ray)
        self._ray, self._most = ray, max(counts)
        self.machines, self.cores = len(counts), sum(counts)

    def run(self, module: str, jobs: Sequence[msgspec.Struct], threads: int, advance: Advance) -> None:
        """See `pool.Pool.run`."""
        wanted = min(threads, self._most)  # a job that needs more cores than any machine has would wait forever
        task = self._ray.remote(_lines).options(num_cpus=wanted, num_returns="streaming", max_retries=0)
        log.debug("jobs on the cluster: %d of %s, %d cores each", len(jobs), module, wanted)
        streams = [task.remote(module, job) for job in jobs]
        with ThreadPoolExecutor(len(jobs)) as pool:
            try:
                for done in as_they_end([pool.submit(self._follow, stream, advance) for stream in streams]):
                    done.result()
            finally:
                for stream in streams:
                    self._ray.cancel(stream)

    def _follow(self, stream: Any, advance: Advance) -> None:
        failed = self._ray.exceptions
        try:
            for line in stream:
                advance(self._ray.get(line))
        except failed.RayTaskError as error:
            if isinstance(error.cause, JobCrashed):
                raise error.cause from error
            kind = StoppedError if isinstance(error.cause, StoppedError) else ExportError
            raise kind(str(error.cause)) from error
        except failed.RayError as error:
            fix = "run the command again to resume"
            raise StoppedError(f"the cluster lost a job: {first_line(error)}", fix=fix) from error


def _lines(module: str, job: msgspec.Struct) -> Iterator[int]:
    """Runs a job's process on a machine of the cluster; yields line by line."""
    with start_job(module, job) as process:
        yield from process.lines()
