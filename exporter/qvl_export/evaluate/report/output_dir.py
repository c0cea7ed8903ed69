"""The output directory of a report: new, empty or an earlier report, so that no other files are overwritten.

A report is recognized by its report.json. If the first run was interrupted before that was written, the directory is
recognized by containing only work directories and, for a sweep, bundles.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from ...common import atomic_output as atomic
from ...common import scratch
from ...common.locks import lock
from ...errors import OutputError, is_bad_input

REPORT, WORK, BUNDLES = "report.json", "work", "bundles"
_NAMES = {
    WORK: re.compile(rf"[0-9a-f]{{12}}|\.{scratch.PROGRAM}\.[0-9a-f]{{12}}\.\w+"),
    BUNDLES: re.compile(r"\w+-\d+|\..+"),
}
"""Names allowed in these folders: work directories, named by a hash, and scratch directories; bundles such as
`int4-200704`, and hidden files beside them."""
_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.tmp")
"""Name of a file that is being written, see `common.atomic_output`."""


class _Header(msgspec.Struct):
    producer: str


def is_bundle(path: Path) -> bool:
    """Whether `path` is a directory named like a bundle of a sweep."""
    return path.is_dir() and not path.name.startswith(".") and bool(_NAMES[BUNDLES].fullmatch(path.name))


@contextlib.contextmanager
def locked_output(out: Path) -> Iterator[None]:
    """Locks `out` for the block; an error gets a note if there are answers from which the next run can resume.

    Raises OutputError as `check_output` does, and if another process has locked it.
    """
    check_output(out)
    created = not out.exists()
    with atomic.parents(out), contextlib.ExitStack() as stack:
        lock_file = out.resolve().parent / f".{out.resolve().name}.report.lock"  # `.` has no name
        with atomic.naming_output(lock_file, out):
            held = stack.enter_context(lock(lock_file))
        if held is False:
            fix = "wait until it ends, or choose another directory"
            raise OutputError("is in use by another comparison", where=out, fix=fix)
        _clear(out)
        try:
            yield
        except BaseException as error:
            if not is_bad_input(error) and any(out.glob(f"{WORK}/*/*.jsonl")):
                error.add_note(f"{out} contains the answers so far; run the command again to resume")
            raise
        finally:
            _remove_empty(*out.glob(f"{WORK}/*/*"), *out.glob(f"{WORK}/*"), out / WORK, *([out] if created else []))


def _clear(out: Path) -> None:
    """Removes files that a killed process was writing, and its scratch directories."""
    scratch.clear(out / WORK)
    for path in [*out.glob(".*.tmp"), *out.glob(f"{WORK}/**/.*.tmp")]:
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _remove_empty(*folders: Path) -> None:
    """Removes the empty ones of some folders, one after another."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def check_output(out: Path) -> None:
    """Raises OutputError if `out` exists and is not a report, complete or interrupted."""
    if not out.exists() and not out.is_symlink():
        return
    if not out.is_dir() or not (_is_report(out) or _is_interrupted(out)):
        raise OutputError("exists and is not a report", where=out, fix="choose another directory")


def _is_report(out: Path) -> bool:
    try:
        return msgspec.json.decode((out / REPORT).read_bytes(), type=_Header).producer.startswith("qvl-export ")
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False


def _is_interrupted(out: Path) -> bool:
    """Whether `out` is empty or contains only folders of a report."""
    entries = [path for path in out.iterdir() if not _TEMPORARY.fullmatch(path.name)]
    return all(path.name in _NAMES and _is_report_folder(path) for path in entries)


def _is_report_folder(folder: Path) -> bool:
    pattern = _NAMES[folder.name]
    return folder.is_dir() and all(pattern.fullmatch(path.name) for path in folder.iterdir())
