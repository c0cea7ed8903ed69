"""Running jobs in processes of their own: one model in memory at a time, all its memory back when it ends."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import msgspec

from ..errors import ExportError


def run_jobs(module: str, jobs: Sequence[msgspec.Struct], advance: Callable[[int], None]) -> None:
    """Run `python -m module JOB.json` for every job at the same time; `advance` is told of each line they print.

    Raises ExportError with the last line of what a failing process had to say; then the others are ended too.
    """
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as running:
        started = []
        for number, job in enumerate(jobs):
            path = Path(directory) / f"{number}.json"
            path.write_bytes(msgspec.json.encode(job))
            errors = running.enter_context((Path(directory) / f"{number}.err").open("w+"))
            started.append((_start(module, path, errors), errors))
            running.callback(_end, started[-1][0])
        with ThreadPoolExecutor(len(jobs)) as pool:
            for done in [pool.submit(_follow, process, errors, advance) for process, errors in started]:
                done.result()


def _start(module: str, job: Path, errors: IO[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-m", module, str(job)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True)


def _follow(process: subprocess.Popen[str], errors: IO[str], advance: Callable[[int], None]) -> None:
    assert process.stdout is not None
    for _ in process.stdout:
        advance(1)
    if process.wait() == 0:
        return
    errors.seek(0)
    said = [line.strip() for line in errors if line.strip()]
    if process.returncode < 0:
        reason = f"was ended by signal {-process.returncode}"
        raise ExportError(f"a process {reason}", fix="of want of memory mostly; run it again to go on where it stopped")
    raise ExportError(said[-1].removeprefix("error: ") if said else f"a process ended with {process.returncode}")


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.terminate()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
