"""A process that ends as its job says, for tests of error messages."""

from __future__ import annotations

import errno
import os
import sys
import time
from pathlib import Path

import msgspec

from qvl_export.errors import ExportError
from qvl_export.jobs.worker import run_job


class Job(msgspec.Struct, frozen=True):
    """`how` it ends; one that waits writes its process id into the directory `place`."""

    how: str
    place: str = ""


def run(job: Job) -> None:
    match job.how:
        case "refused":
            raise ExportError("is wrong", where="there", fix="mend it")
        case "missing":
            open(f"/nowhere/{job.how}").close()
        case "full":
            raise OSError(errno.ENOSPC, "No space left on device")
        case "memory":
            raise MemoryError
        case "waiting":
            (Path(job.place) / str(os.getpid())).touch()
            time.sleep(600)
        case "anonymous":
            raise OSError("of no file")
        case "bug":
            undefined_name  # noqa: B018, F821


if __name__ == "__main__":
    sys.exit(run_job(Job, run))
