"""What a job's process does, `python -m module`: see `processes`, which starts it.

Its job is a line of JSON on standard input, which stays open after it: once it closes, whoever started the process is
gone, however that ended, and the process ends too.
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

from qvl_runtime.cli.arguments import BAD_INPUT
from qvl_runtime.errors import QvlError

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What a disk says that has no room for what is written to an open file: the one error that names no file."""
ORPHANED = 1
"""Exit code, which nobody is there to see."""
Job = TypeVar("Job", bound=msgspec.Struct)


def serve(kind: type[Job], run: Callable[[Job], None]) -> int:
    """Run the job on standard input and return the exit code: 2 and one line on standard error if it cannot be done.

    Anything that is nobody's input but a bug of ours is not caught: its traceback is what `processes` shows.
    """
    warnings.simplefilter("ignore", UserWarning)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; whoever started us ends us
    try:
        run(msgspec.json.decode(_received(), type=kind))
    except QvlError as error:
        return _refused(str(error))
    except MemoryError:
        return _refused("not enough memory")
    except BrokenPipeError:  # whoever started us is gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.filename is None and error.errno not in FULL:
            raise
        where = f"{error.filename}: " if error.filename is not None else ""
        return _refused(f"{where}{error.strerror or error}")
    return 0


def _received() -> bytes:
    """The job; from here on the process ends when the pipe closes."""
    line = sys.stdin.buffer.readline()
    pipe, nothing = os.dup(sys.stdin.fileno()), os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, sys.stdin.fileno())  # Windows: libraries that look at it while it is read from would wait
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
