"""The entry point of a job's process, `python -m module`, which `jobs.pool` starts.

The job is one line of JSON on standard input, which then stays open: once it closes, the parent process is gone,
however it ended, and this process ends too.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from typing import TypeVar

import msgspec

from qvl_runtime.common.exit_codes import BAD_INPUT
from qvl_runtime.errors import QvlError

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errno values of a full disk while writing an open file: the only expected OSErrors without a file name."""
ORPHANED = 1
"""Exit code once the parent is gone, which nobody sees."""
Job = TypeVar("Job", bound=msgspec.Struct)


def run_job(kind: type[Job], run: Callable[[Job], None]) -> int:
    """Runs the job on standard input and returns the exit code: 2, with one line on standard error, for bad input.

    Exceptions caused by bugs are not caught: `jobs.pool` shows their traceback.
    """
    warnings.simplefilter("ignore", UserWarning)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all processes; the parent ends this one
    try:
        run(msgspec.json.decode(_received(), type=kind))
    except QvlError as error:
        return _refused(str(error))
    except MemoryError:
        return _refused("not enough memory")
    except BrokenPipeError:  # the parent is gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.filename is None and error.errno not in FULL:
            raise
        where = f"{error.filename}: " if error.filename is not None else ""
        return _refused(f"{where}{error.strerror or error}")
    return 0


def _received() -> bytes:
    """Reads the job; from then on the process ends when the pipe closes."""
    line = sys.stdin.buffer.readline()
    pipe, nothing = os.dup(sys.stdin.fileno()), os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, sys.stdin.fileno())  # Windows: libraries that inspect stdin while it is being read would block
    os.close(nothing)
    threading.Thread(target=_end_with, args=(pipe,), daemon=True).start()
    return line


def _end_with(pipe: int) -> None:
    while os.read(pipe, 1):
        pass
    os._exit(ORPHANED)


def _refused(reason: str) -> int:
    print(f"error: {reason}", file=sys.stderr)
    return BAD_INPUT
