"""The calibration directory beside an output, used by one export at a time and kept only if a run can resume from it.

It holds one directory per tower, each with a subdirectory named by the key of the work in it (see `work_dir.Work`).
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
"""The measured sensitivities, which are valid for other limits too."""
IMAGES = "images"
"""Folder for pages that this export has rendered, see `calibration_data.stored_pages`; no later run uses them."""
DONE = ("pages", "stage.*.json", "step.*.json", MEASURED)
Seen = dict[Path, int]


def directory_of(out: Path) -> Path:
    """The calibration directory of the bundle `out`, beside it; it survives a killed run."""
    return out.with_name(f".{out.name}.calibration")


@contextlib.contextmanager
def calibrating(out: Path) -> Iterator[None]:
    """Locks the calibration directory of `out` during the block, and removes it on success.

    Raises OutputError if another export uses it. If a later run can resume from it, a note on the error says so.
    """
    directory = directory_of(out)
    with atomic.parents(out), _claimed(out, directory):
        shutil.rmtree(directory / IMAGES, ignore_errors=True)
        before = _seen(directory)
        for partial in directory.rglob(".*.tmp"):
            partial.unlink(missing_ok=True)
        try:
            yield
        except BaseException as error:
            shutil.rmtree(directory / IMAGES, ignore_errors=True)
            if is_bad_input(error):
                _forget(directory, before)
            if not any(path.is_file() for name in DONE for path in directory.rglob(name)):
                shutil.rmtree(directory, ignore_errors=True)
            elif _seen(directory) != before:
                error.add_note(f"{directory} contains the finished work; run the command again to resume")
            raise
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def _claimed(out: Path, directory: Path) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        with atomic.naming_output(directory, out):
            held = stack.enter_context(lock(directory.with_name(f"{directory.name}.lock")))
        if held is False:
            fix = "wait until it ends, or choose another directory"
            raise OutputError("is in use by another export", where=out, fix=fix)
        yield


def _seen(directory: Path) -> Seen:
    """Modification time of each key's directory, to detect new work."""
    return {path: path.stat().st_mtime_ns for path in directory.glob("*/*")}


def _forget(directory: Path, before: Seen) -> None:
    """Removes this run's work, which would fail again on the same input; keeps the work of other runs."""
    for path, changed in _seen(directory).items():
        if before.get(path) != changed and not (path / MEASURED).is_file():
            shutil.rmtree(path, ignore_errors=True)
