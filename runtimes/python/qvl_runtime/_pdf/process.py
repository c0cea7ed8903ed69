"""Runs pdfium in a separate process with limits on memory and time, so that no PDF can crash the host.

The process is started when the first PDF is opened and kept; if it dies, it is replaced. If none can be started (in a
frozen application, or on a system without processes), pdfium runs in this process, without these limits.
"""

from __future__ import annotations

import atexit
import errno
import functools
import json
import os
import struct
import subprocess
import sys
import threading
import warnings
from typing import Any, cast

from ..common.interpreter import interpreter, locations
from ..common.log import log
from ..errors import InstallError
from .limits import Document, PdfFailure, PdfLimits
from .reader import LENGTHS, RawFile, Reader, Reply, fill, send

START_SECONDS = 60.0
MAX_REPLY = 1 << 26, 1 << 29
"""Maximum bytes of a reply's JSON (page text included) and of its pixels; larger replies are invalid."""
PIPE_BYTES = 1 << 20
"""Size requested from Linux for the pipe of the pixels, which makes their transfer faster."""
_PDFIUM = threading.Lock()
"""pdfium is not thread-safe, even across documents."""
_BUSY = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
_START = "import sys; sys.path[:] = {path!a}; from {package}.reader import main; main({memory})"


class _RequestFailed(PdfFailure):
    """pdfium rejected a request; the process keeps running."""


class _ProcessEnded(PdfFailure):
    """The process ended; `late` if it exceeded its time. `used` are the documents it had opened."""

    def __init__(self, reason: str, late: bool, used: set[str]) -> None:
        super().__init__(reason)
        self.late, self.used = late, used


class _CannotStart(Exception):
    """Processes cannot be started here."""


class PdfProcess:
    """The process for one set of limits; threads take turns."""

    def __init__(self, limits: PdfLimits) -> None:
        self._limits, self._lock = limits, threading.Lock()
        self._child: _Child | _InProcess | None = None
        self._started_before = False

    @property
    def pid(self) -> int | None:
        """The id of the process that runs now, or None."""
        return self._child.pid if isinstance(self._child, _Child) else None

    def ask(self, document: Document, do: str, **arguments: Any) -> Reply:
        """Returns pdfium's reply about a document; raises PdfFailure, also if a limit is exceeded."""
        with self._lock:
            try:
                return self._ask(document, do, arguments)
            except _ProcessEnded as error:
                if error.late or error.used <= {document.name}:
                    raise
            # earlier documents may have used up the process's memory: retry in a fresh one
            return self._ask(document, do, arguments)

    def _ask(self, document: Document, do: str, arguments: dict[str, Any]) -> Reply:
        if self._child is not None and not self._child.alive():
            self._end()  # the system, or somebody else, ended it between two requests
        self._child = self._child or self._start()
        try:
            return self._child.ask(document, do, arguments)
        except _RequestFailed:
            raise
        except BaseException:  # KeyboardInterrupt too: the rest of the reply would be read as the next one
            self._end()
            raise

    def release(self, document: Document) -> None:
        """Releases a document, unless that would block: this is also called by the garbage collector."""
        if self._lock.acquire(blocking=False):
            try:
                if self._child is not None:
                    self._child.release(document)
            except PdfFailure:
                self._end()
            finally:
                self._lock.release()

    def close(self) -> None:
        """Ends the process; the next request starts another."""
        with self._lock:
            self._end()

    def forget(self) -> None:
        """Forgets the child process; called in the new process after a fork, since the child belongs to the parent."""
        self._lock = threading.Lock()
        if isinstance(self._child, _Child):
            self._child.disown()
        self._child = None

    def _start(self) -> _Child | _InProcess:
        if not sys.executable or getattr(sys, "frozen", False):
            return _InProcess()
        try:
            child = _Child(self._limits)
        except _CannotStart as error:
            if self._started_before:
                raise PdfFailure(f"no process can be started: {error}") from error
            warnings.warn(f"PDFs are read without limits on memory and time: {error}", UserWarning, stacklevel=2)
            return _InProcess()
        self._started_before = True
        return child

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.end()


class _InProcess:
    """pdfium in this process, with the interface of a child process."""

    def __init__(self) -> None:
        try:
            self._reader, self._open = Reader(), ""
        except Exception as error:
            raise _load_error(error) from error

    def ask(self, document: Document, do: str, arguments: dict[str, Any]) -> Reply:
        with _PDFIUM:
            if self._open != document.name:
                self._open = ""
                found = _raise_errors(self._reader.answer({"do": "open"}, document.content))
                self._open = document.name
                if do == "open":
                    return found
            return _raise_errors(self._reader.answer({"do": do, **arguments}, b""))

    def release(self, document: Document) -> None:
        if self._open == document.name and _PDFIUM.acquire(blocking=False):
            self._open = ""
            self._reader.answer({"do": "close"}, b"")
            _PDFIUM.release()

    def alive(self) -> bool:
        return True

    def end(self) -> None:
        """Does nothing: there is no process to end. A document may stay open, as after a fork."""


class _Child:
    """A running child process with at most one open document."""

    def __init__(self, limits: PdfLimits) -> None:
        self._limits, self._open = limits, ""
        self._used: set[str] = set()
        self._process = _popen(limits)
        try:
            head, _ = self._reply(START_SECONDS)
        except _ProcessEnded as error:
            self.end()
            if error.late:
                raise
            raise _CannotStart(f"{sys.executable} does not start") from error
        except BaseException:
            self.end()
            raise
        if "error" in head:
            self.end()
            raise _load_error(head["error"])

    def ask(self, document: Document, do: str, arguments: dict[str, Any]) -> Reply:
        if self._open != document.name:
            self._open = ""
            self._used.add(document.name)
            found = _raise_errors(self._reply(self._limits.seconds, {"do": "open"}, document.content))
            self._open = document.name
            if do == "open":
                return found
        return _raise_errors(self._reply(self._limits.seconds, {"do": do, **arguments}))

    def release(self, document: Document) -> None:
        if self._open == document.name:
            self._open = ""
            self._reply(self._limits.seconds, {"do": "close"})

    @property
    def pid(self) -> int:
        return self._process.pid

    def alive(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self.disown()

    def disown(self) -> None:
        """Closes this process's ends of the pipes."""
        if self._process.returncode is None:
            self._process.returncode = 0  # it is another process's child; Popen would warn
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _reply(self, seconds: float, head: dict[str, Any] | None = None, body: bytes = b"") -> Reply:
        """Sends a request, if given, and returns the process's next reply; raises _Ended if there is none."""
        try:
            deadline = _Deadline(seconds, self._process)
        except RuntimeError as error:
            raise PdfFailure(f"its time cannot be limited: {error}") from error
        try:
            if head is not None:
                send(cast(RawFile, self._process.stdin), head, body)
            reply = _received(cast(RawFile, self._process.stdout))
        except (EOFError, OSError, ValueError, RecursionError, struct.error) as error:
            raise self._ended(seconds, deadline.cancel()) from error
        except BaseException:
            deadline.cancel()
            raise
        if deadline.cancel():
            raise self._ended(seconds, True)
        return reply

    def _ended(self, seconds: float, late: bool) -> _ProcessEnded:
        memory = f"it takes more than {self._limits.memory >> 20:,} MiB of memory, or is damaged and crashes pdfium"
        return _ProcessEnded(f"it takes longer than {seconds:g} s" if late else memory, late, self._used)


class _Deadline:
    """Kills a process after some seconds, unless `cancel` is called first."""

    def __init__(self, seconds: float, process: subprocess.Popen[bytes]) -> None:
        self._process, self._lock = process, threading.Lock()
        self._done = self._late = False
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True
        self._timer.start()

    def _end(self) -> None:
        with self._lock:
            if not self._done:
                self._late = True
                self._process.kill()

    def cancel(self) -> bool:
        """Cancels the deadline; returns whether the process was already killed."""
        with self._lock:
            self._done = True
        self._timer.cancel()
        return self._late


def _popen(limits: PdfLimits) -> subprocess.Popen[bytes]:
    python = interpreter()
    if python is None:  # another executable may never end
        raise _CannotStart(f"{sys.executable} is not a Python interpreter")
    path = [*map(str, sys.path), *locations("qvl_runtime", "pypdfium2")]  # import hooks may find them elsewhere
    code = _START.format(path=path, package=__package__, memory=limits.memory)
    try:
        process = subprocess.Popen(
            [python, "-P", "-c", code],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
    except OSError as error:
        if error.errno in _BUSY:
            raise PdfFailure(f"no process can be started: {error.strerror}") from error
        raise _CannotStart(f"{sys.executable}: {error.strerror}") from error
    log.debug("PDF process started: %d", process.pid)
    _enlarge_pipe(process.stdout)
    return process


def _enlarge_pipe(pipe: Any) -> None:
    """Enlarges a pipe, which halves the transfer time of a page's pixels; only possible on Linux."""
    try:
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    except (ImportError, AttributeError, OSError):
        pass


def _received(pipe: RawFile) -> Reply:
    """Reads one message; raises ValueError if its sizes exceed MAX_REPLY."""
    lengths = bytearray(LENGTHS.size)
    fill(pipe, lengths)
    sizes = LENGTHS.unpack(lengths)
    if sizes[0] > MAX_REPLY[0] or sizes[1] > MAX_REPLY[1]:
        raise ValueError("no reply")
    head, body = bytearray(sizes[0]), bytearray(sizes[1])
    fill(pipe, head)
    fill(pipe, body)
    return json.loads(head), body


def _raise_errors(reply: Reply) -> Reply:
    if "error" in reply[0]:
        raise _RequestFailed(str(reply[0]["error"]))
    return reply


def _load_error(error: object) -> InstallError:
    return InstallError(f"pypdfium2 cannot be loaded: {error}", fix="install it again")


@functools.cache
def pdf_process(limits: PdfLimits) -> PdfProcess:
    """Returns the PdfProcess shared by this process for these limits; it starts its child on the first request."""
    process = PdfProcess(limits)
    atexit.register(process.close)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=process.forget)
    return process
