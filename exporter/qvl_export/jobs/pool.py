"""Runs jobs in processes of their own: each holds one model, whose memory is freed when the process ends.

A process gets its job through a pipe, which stays open as long as the parent lives: when it closes, the process ends
(see `jobs.worker`), on every platform and however the parent ended.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import IO, Protocol

import msgspec

from qvl_runtime.common.exit_codes import BAD_INPUT
from qvl_runtime.sessions import cores

from ..common.log import log
from ..errors import ExportError, StoppedError

Advance = Callable[[int], None]
POLL = 0.5
"""Seconds between checks for finished jobs."""
PATIENCE = 10
"""Seconds that a process has to end after it was asked to terminate."""
TRACEBACK = "Traceback (most recent call last)"


class Pool(Protocol):
    """Where jobs run: `machines` machines with `cores` cores in total."""

    machines: int
    cores: int

    def run(self, module: str, jobs: Sequence[msgspec.Struct], threads: int, advance: Advance) -> None:
        """Runs `python -m module` for every job, each on `threads` cores; calls `advance` for every line they print.

        Raises ExportError with the last error line of a failing process, StoppedError if a signal ended it, and
        JobCrashed for a traceback; the other processes are then ended too.
        """


class JobCrashed(Exception):
    """A process ended by an internal bug, with its traceback; not an ExportError, which would mean bad input."""


class ThisMachine:
    """Runs all jobs at the same time on this machine."""

    def __init__(self) -> None:
        self.machines, self.cores = 1, cores()

    def run(self, module: str, jobs: Sequence[msgspec.Struct], threads: int, advance: Advance) -> None:
        """See `Pool.run`."""
        run_jobs(module, jobs, advance)


def run_jobs(module: str, jobs: Sequence[msgspec.Struct], advance: Advance) -> None:
    """Runs `python -m module` for every job at the same time; see `Pool.run`."""

    def follow(process: JobProcess) -> None:
        for count in process.lines():
            advance(count)

    with ThreadPoolExecutor(len(jobs)) as threads, contextlib.ExitStack() as stack:
        running = [stack.enter_context(start_job(module, job)) for job in jobs]
        for done in as_they_end([threads.submit(follow, process) for process in running]):
            done.result()


def as_they_end(futures: Sequence[Future[None]]) -> Iterator[Future[None]]:
    """Yields futures as they end; it polls because on Windows a wait without a timeout cannot be interrupted."""
    pending = set(futures)
    while pending:
        done, pending = wait(pending, POLL, FIRST_COMPLETED)
        yield from done


class JobProcess:
    """A running process."""

    def __init__(self, process: subprocess.Popen[str], errors: IO[str]) -> None:
        self._process, self._errors = process, errors

    def lines(self) -> Iterator[int]:
        """Yields 1 for each line that it prints; raises ExportError if it fails, JobCrashed if that is a bug."""
        assert self._process.stdout is not None
        for _ in self._process.stdout:
            yield 1
        if self._process.wait() != 0:
            raise self._failure()

    def _failure(self) -> ExportError | JobCrashed:
        code = self._process.returncode
        if code < 0:
            fix = "probably out of memory; run the command again to resume"
            return StoppedError(f"a process was ended by signal {-code}", fix=fix)
        self._errors.seek(0)
        if code != BAD_INPUT and TRACEBACK in (text := self._errors.read()):
            return JobCrashed(f"in a process of its own:\n{text.rstrip()}")
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors if line.strip()]
        return ExportError(lines[-1].removeprefix("error: ") if lines else f"a process ended with exit code {code}")


@contextlib.contextmanager
def start_job(module: str, job: msgspec.Struct) -> Iterator[JobProcess]:
    """Starts `python -m module` on a job; the process is ended with the block at the latest."""
    command, pipe = [sys.executable, "-P", "-m", module], subprocess.PIPE
    settings = {**os.environ, "PYTHONIOENCODING": "utf-8"}  # on Windows it would be the console's
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors,
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, encoding="utf-8", env=settings) as process,
    ):
        log.debug("job started: %s, process %d", module, process.pid)
        try:
            _hand_over(process, job)
            yield JobProcess(process, errors)
        finally:
            _end(process)
            log.debug("job ended: process %d, exit code %s", process.pid, process.returncode)


def _hand_over(process: subprocess.Popen[str], job: msgspec.Struct) -> None:
    assert process.stdin is not None
    with contextlib.suppress(OSError):  # it has already ended, and reports why
        process.stdin.write(msgspec.json.encode(job).decode() + "\n")
        process.stdin.flush()


def _end(process: subprocess.Popen[str]) -> None:
    """Asks the process to terminate, and kills it after PATIENCE seconds."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):
            if pipe is not None:
                pipe.close()
