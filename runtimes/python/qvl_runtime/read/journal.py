"""The file of answers: one JSON object per line, on disk before the next page is counted, continued after a kill."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from ..common.files import MAX_LINE_BYTES
from ..errors import PromptError
from .tasks import Record, Task, content_key

START = b'{"file": '
"""How a record begins."""
CLOSE_FIRST = os.name == "nt"
"""Whether a file must be closed before it is replaced or removed. Elsewhere its lock is held until then."""
NEW_RUN = "give the options of the first run, another --out, or --force to begin anew"


class Journal:
    """Appends records of the run with fingerprint `run`, and knows which tasks have one once `begin` was called.

    What it keeps in memory is a hash and a place per answered page, about 200 bytes. Use it in a `with`. Raises
    PromptError if the file is no such file, or has answers of another run without `force`, and OSError that names it.
    """

    def __init__(self, path: Path, run: str, force: bool = False) -> None:
        self.path, self._run, self._force = path, run, force
        self._places = dict[bytes, int]()
        """The key of a content → where its first record begins."""
        self._left = dict[bytes, int]()
        """The key of a content → how many records of an earlier run no task has been matched with yet."""
        with _naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._open()
        try:
            self._check()
        except BaseException:
            self._file.close()
            raise

    def begin(self) -> None:
        """Prepares the file for this run, to be called when nothing but a page can fail any more.

        Answers of an earlier run stay, without failures, which are tried again, and a line that was cut; with `force`
        none do.
        """
        if self._force:
            self._file.truncate(0)
        else:
            self._resume()

    def _open(self) -> IO[bytes]:
        while True:
            with _naming(self.path):
                file = self.path.open("ab")
            try:
                _lock(file, self.path)
                if self._is_at_path(file):
                    return file
            except BaseException:
                file.close()
                raise
            file.close()

    def _is_at_path(self, file: IO[bytes]) -> bool:
        """Whether no other process has replaced or removed the file before it was locked."""
        try:
            return os.path.samestat(os.fstat(file.fileno()), self.path.stat())
        except FileNotFoundError:
            return False

    def _check(self) -> None:
        """Reads the file, or with `force` its first line: any answer of `read` may be replaced, but nothing else."""
        for _ in self._scan():
            if self._force:
                return

    def _resume(self) -> None:
        """Indexes answers of an earlier run; if something is to be left out, the file is written beside and renamed."""
        dropped = False
        for _, record, _ in self._scan():
            dropped |= record is None
        if dropped:
            self._rewrite()
            self._file.close()
            self._file = self._open()
        for place, record, _ in self._scan():
            if record is not None:
                key = content_key(record.get("sha256"), record.get("page"))
                self._places.setdefault(key, place)
                self._left[key] = self._left.get(key, 0) + 1

    def _rewrite(self) -> None:
        beside = self.path.with_name(f".{self.path.name}.partial")
        with _naming(self.path):
            try:
                with beside.open("wb") as file:
                    file.writelines(line for _, record, line in self._scan() if record is not None)
                    file.flush()
                    os.fsync(file.fileno())
                if CLOSE_FIRST:
                    self._file.close()
                beside.replace(self.path)
            finally:
                beside.unlink(missing_ok=True)

    def _scan(self) -> Iterator[tuple[int, Record | None, bytes]]:
        """Yields the place of each line, its record, None if it is to be left out, and the line."""
        with _naming(self.path), self.path.open("rb") as file:
            place = number = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                yield place, self._checked(line, number, file), line
                place += len(line)

    def _checked(self, line: bytes, number: int, file: IO[bytes]) -> Record | None:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        cut = not line.endswith(b"\n") or record is None
        if cut and (number > 1 or START.startswith(line[: len(START)])) and not file.peek(1):  # type: ignore[attr-defined]
            return None  # the last line: the process that wrote it was killed
        if cut or not isinstance(record, dict) or not isinstance(record.get("run"), str):
            where = f"{self.path}:{number}"
            raise PromptError("is not an answer that `read` wrote", where=where, fix="choose another --out")
        if record["run"] != self._run and not self._force:
            raise PromptError("has answers of other options or another bundle", where=self.path, fix=NEW_RUN)
        return None if record.get("error") is not None else record

    def known(self, task: Task) -> bool:
        """Whether an earlier run has answered this task, under whatever file name; each record counts once."""
        if task.sha256 is None or not (left := self._left.get(task.key)):
            return False
        self._left[task.key] = left - 1
        return True

    def twin(self, task: Task) -> Record | None:
        """Returns the record of a task with the same content."""
        if task.sha256 is None or (place := self._places.get(task.key)) is None:
            return None
        with _naming(self.path), self.path.open("rb") as file:
            file.seek(place)
            found: Record = json.loads(file.readline())
        return found

    def add(self, record: Record) -> None:
        """Appends a record and waits until it is on disk."""
        line = json.dumps(record | {"run": self._run}, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        with _naming(self.path):
            place = self._file.seek(0, os.SEEK_END)
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
        if record.get("error") is None:
            self._places.setdefault(content_key(record["sha256"], record.get("page")), place)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Closes the file, and removes it if nothing was written."""
        steps = (self._file.close, self._remove_if_empty) if CLOSE_FIRST else (self._remove_if_empty, self._file.close)
        for step in steps:
            with contextlib.suppress(OSError):
                step()

    def _remove_if_empty(self) -> None:
        if not self.path.stat().st_size:
            self.path.unlink()


def _lock(file: IO[bytes], path: Path) -> None:
    """Raises PromptError if another process writes the file; does nothing where the system has no such locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise PromptError(
            "another `read` is writing it", where=path, fix="wait for it, or choose another --out"
        ) from error
    except OSError:  # a file system without locks
        return


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Makes an OSError in the block name the file."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"cannot be written: {error.strerror or error}", str(path)) from error
