"""What a job's process does, `python -m module JOB.json`: see `processes`, which starts it."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from qvl_runtime.arguments import BAD_INPUT
from qvl_runtime.errors import QvlError

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What a disk says that has no room for what is written to an open file: the one error that names no file."""
Job = TypeVar("Job", bound=msgspec.Struct)


def serve(path: str, kind: type[Job], run: Callable[[Job], None]) -> int:
    """Run the job in a file and return the exit code: 2 and one line on standard error where it cannot be done.

    Anything that is nobody's input but a bug of ours is not caught: its traceback is what `processes` shows.
    """
    warnings.simplefilter("ignore", UserWarning)
    try:
        run(msgspec.json.decode(Path(path).read_bytes(), type=kind))
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


def _refused(reason: str) -> int:
    print(f"error: {reason}", file=sys.stderr)
    return BAD_INPUT
