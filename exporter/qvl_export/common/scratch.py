"""Directories that live no longer than their process, and the search for those that a killed process left.

Such a directory is called `.NAME.ID.STATE`; the lock `.NAME.ID.lock` beside it is held while it is in use.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from .locks import lock

LOCK, SCRATCH = "lock", "scratch"
PROGRAM = "qvl-export"
MOMENT = 60
"""Seconds within which a process that has created its lock file also locks it and creates its directory."""


def new_id() -> str:
    return uuid.uuid4().hex[:12]


def path_in_state(parent: Path, name: str, id: str, state: str) -> Path:
    """Returns the path of a directory in a state, or of its lock."""
    return parent / f".{name}.{id}.{state}"


def abandoned(parent: Path, name: str, *states: str) -> Iterator[str]:
    """Yields the ids of directories in `parent` that no process uses; each is locked until the next is requested.

    Directories that are in use, or that cannot be locked, are left out.
    """
    pattern = re.compile(rf"\.{re.escape(name)}\.([0-9a-f]{{12}})\.({'|'.join((*states, LOCK))})")
    if not parent.is_dir():
        return
    places = [(found[1], path) for path in parent.iterdir() if (found := pattern.fullmatch(path.name))]
    for id in sorted({id for id, path in places if path.suffix != f".{LOCK}" or _is_old(path)}):
        with contextlib.suppress(OSError), lock(path_in_state(parent, name, id, LOCK)) as held:
            if held:
                yield id


def _is_old(path: Path) -> bool:
    """Whether a lock file is older than MOMENT; a process that is just starting may not have locked its own yet."""
    try:
        return time.time() - path.stat().st_mtime > MOMENT
    except OSError:
        return False


def clear(parent: Path, name: str = PROGRAM) -> None:
    """Removes the scratch directories in `parent` that killed processes left."""
    for id in abandoned(parent, name, SCRATCH):
        shutil.rmtree(path_in_state(parent, name, id, SCRATCH), ignore_errors=True)


@contextlib.contextmanager
def scratch(parent: Path | None = None, name: str = PROGRAM) -> Iterator[Path]:
    """Creates a directory in `parent` (default: the system's temporary directory) and removes it after the block.

    Directories of the same name that killed processes left are removed first.
    """
    parent = parent or Path(tempfile.gettempdir())
    clear(parent, name)
    id = new_id()
    directory = path_in_state(parent, name, id, SCRATCH)
    with lock(path_in_state(parent, name, id, LOCK)):
        directory.mkdir(mode=0o700)
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)
