"""What a job's process does, `python -m module JOB.json`: see `processes`, which starts it."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from qvl_runtime.errors import QvlError

Job = TypeVar("Job", bound=msgspec.Struct)


def serve(path: str, kind: type[Job], run: Callable[[Job], None]) -> int:
    """Run the job in a file and return the exit code: 2 and one line on standard error where it cannot be done."""
    warnings.simplefilter("ignore", UserWarning)
    try:
        run(msgspec.json.decode(Path(path).read_bytes(), type=kind))
    except QvlError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever started us is gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0
