"""Runs shards on the machines of a cluster; each job runs `python -m qvl_export.quant.calibration.cluster`.

The work directory has the same path on every machine. A job runs a stage over some shards and writes their results
there. Results do not depend on which machine ran which shard.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ...common import libraries
from ...common.atomic_output import atomic_file
from ...errors import ExportError
from ...jobs.pool import Pool
from ...jobs.worker import run_job
from . import shards
from .layer_session import open_session, through
from .shards import CaptureRequest, ShardStatistics
from .work_dir import Work

if TYPE_CHECKING:
    from qvl_runtime._onnxruntime.library import ort

MODULE = "qvl_export.quant.calibration.cluster"


class ShardJob(msgspec.Struct, frozen=True):
    """Runs `shards`, each given as its first page and the page after its last, through the stage in the file `model`.

    With `request`, it collects each shard's statistics; without it, it writes the outputs, the next stage's inputs.
    """

    directory: str
    number: int
    model: str
    request: CaptureRequest | None
    shards: list[tuple[int, int]]
    threads: int


@dataclass(frozen=True)
class ClusterRunner:
    """Runs stage `number` on a pool of n machines, see `shards.Runner`; each machine takes every n-th shard."""

    pool: Pool
    work: Work
    number: int

    def statistics(self, model: Path, request: CaptureRequest) -> Iterator[ShardStatistics]:
        """See `Runner.statistics`; removes a shard's file after reading it."""
        self._run(model, request)
        for shard in shards.shards(request.pages):
            path = _file(self.work, self.number, shard)
            with path.open("rb") as file:
                yield shards.read(file, request, self.work.directory / shards.tokens_file(shard))
            path.unlink()

    def outputs(self, model: Path) -> tuple[()]:
        """See `Runner.outputs`; empty because the machines have written the outputs."""
        self._run(model, None)
        return ()

    def _run(self, model: Path, request: CaptureRequest | None) -> None:
        directory, path = str(self.work.directory.resolve()), str(model.resolve())
        threads = threads_per_machine(self.pool)
        parts = divide_shards(self.pool, self.work.pages)
        jobs = [ShardJob(directory, self.number, path, request, part, threads) for part in parts]
        self.pool.run(MODULE, jobs, threads, lambda _: None)


def divide_shards(pool: Pool, pages: int) -> list[list[tuple[int, int]]]:
    """Divides the shards over the machines; a machine without a shard is left out."""
    parts = [(shard.start, shard.stop) for shard in shards.shards(pages)]
    return [parts[rank :: pool.machines] for rank in range(min(pool.machines, len(parts)))]


def threads_per_machine(pool: Pool) -> int:
    """Cores per machine: its only job uses all of them."""
    return max(1, pool.cores // pool.machines)


def run(job: ShardJob) -> None:
    """Runs a job and prints one line per finished shard."""
    os.environ.setdefault("OMP_NUM_THREADS", str(job.threads))  # before PyTorch is imported
    libraries.check()
    work = open_work_dir(job.directory)
    session = open_session(Path(job.model), job.threads)
    for first, last in job.shards:
        shard = range(first, last)
        if job.request:
            _collect(session, work, job.number, shard, job.request)
        else:
            for page, sample in zip(shard, work.samples(job.number, shard), strict=True):
                work.keep(job.number + 1, page, through(session, sample))
        print(first, flush=True)


def open_work_dir(directory: str) -> Work:
    """Opens the work directory of a job; raises ExportError if this machine does not have it."""
    if not Path(directory).is_dir():
        fix = "put OUT on a file system that all machines mount at the same path"
        raise ExportError(f"does not exist on {socket.gethostname()}", where=directory, fix=fix)
    return Work(Path(directory))


def _collect(session: ort.InferenceSession, work: Work, number: int, shard: range, request: CaptureRequest) -> None:
    """Writes a shard's statistics to its file; its Hessians are freed before the next shard's are allocated."""
    tokens = work.directory / shards.tokens_file(shard)
    statistics = shards.collect_shard(session, work.samples(number, shard), request, tokens)
    with atomic_file(_file(work, number, shard)) as file:
        shards.write(statistics, file)


def _file(work: Work, number: int, shard: range) -> Path:
    """The file of a shard's statistics."""
    return work.directory / f"shard.{number}.{shard.start}"


if __name__ == "__main__":
    sys.exit(run_job(ShardJob, run))
