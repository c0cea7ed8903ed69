"""The calibration directory beside an output: one export at a time uses it, and it stays only for a run that goes on.

It holds a directory a tower, in each of which one key names what has been done (see `work.Work`).
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from ...common import atomic_output as atomic
from ...common.locks import lock
from ...errors import OutputError, is_bad_input

MEASURED = "table.json"
"""What sensitivities were measured, which hold for other limits too."""
DONE = ("pages", "stage.*.json", "step.*.json", MEASURED)
Seen = dict[Path, int]


def directory_of(out: Path) -> Path:
    """What is done so far lies beside the bundle that it is for, and survives a kill."""
    return out.with_name(f".{out.name}.calibration")


@contextlib.contextmanager
def calibrating(out: Path) -> Iterator[None]:
    """Use the calibration directory of `out` in the block; it is removed when that ends well.

    Raises OutputError where another export uses it. Where a run can go on from it, the error says so in a note.
    """
    directory = directory_of(out)
    with atomic.parents(out), _claimed(out, directory):
        before = _seen(directory)
        for half in directory.rglob(".*.tmp"):
            half.unlink(missing_ok=True)
        try:
            yield
        except BaseException as error:
            if is_bad_input(error):
                _forget(directory, before)
            if not any(path.is_file() for name in DONE for path in directory.rglob(name)):
                shutil.rmtree(directory, ignore_errors=True)
            elif _seen(directory) != before:
                error.add_note(f"{directory} keeps what is done so far: the next run goes on from it")
            raise
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def _claimed(out: Path, directory: Path) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        with atomic.told(directory, out):
            held = stack.enter_context(lock(directory.with_name(f"{directory.name}.lock")))
        if held is False:
            fix = "wait until it ends, or choose another place"
            raise OutputError("another export is at work on it", where=out, fix=fix)
        yield


def _seen(directory: Path) -> Seen:
    """What was done for each key, as far as times tell it."""
    return {path: path.stat().st_mtime_ns for path in directory.glob("*/*")}


def _forget(directory: Path, before: Seen) -> None:
    """Remove what this run has done, which another that is given the same would fail with; not what others left."""
    for path, changed in _seen(directory).items():
        if before.get(path) != changed and not (path / MEASURED).is_file():
            shutil.rmtree(path, ignore_errors=True)
