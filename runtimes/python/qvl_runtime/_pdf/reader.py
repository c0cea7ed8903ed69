"""Requests to pdfium, and the main function of its process: opening, sizes, drawing and text of one PDF.

The process reads requests from standard input and writes replies to standard output. Each message consists of the
lengths of its two parts, a JSON object, and bytes (the document, or pixels). The process imports only the standard
library and pypdfium2, limits its own memory, and ends when standard input closes, even in the middle of a page.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import os
import queue
import signal
import struct
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, Protocol

LENGTHS = struct.Struct("<IQ")
"""Lengths of the JSON object and of the bytes after it."""
OUT_OF_MEMORY = 77
"""Exit code of a process that exceeded its memory limit."""
POLL_SECONDS = 0.01
Reply = tuple[dict[str, Any], Any]


class RawFile(Protocol):
    """An unbuffered pipe."""

    def readinto(self, buffer: Any, /) -> int | None: ...

    def write(self, buffer: Any, /) -> int | None: ...


def send(pipe: RawFile, head: Mapping[str, Any], body: Any = b"") -> None:
    """Writes one message."""
    text = json.dumps(head).encode()
    size = memoryview(body).nbytes
    for part in (LENGTHS.pack(len(text), size) + text, memoryview(body).cast("B")):
        while part:
            part = part[pipe.write(part) or 0 :]


def fill(pipe: RawFile, buffer: Any) -> None:
    """Fills a buffer; raises EOFError if the pipe ends first."""
    rest = memoryview(buffer).cast("B")
    while rest:
        if not (count := pipe.readinto(rest)):
            raise EOFError
        rest = rest[count:]


class Reader:
    """pdfium with at most one document open."""

    def __init__(self) -> None:
        import pypdfium2

        self._pdfium, self._document = pypdfium2, None
        self._content: Any = None  # kept alive: pdfium keeps reading it

    def answer(self, request: Mapping[str, Any], content: Any) -> Reply:
        """Returns the reply to one request; {"error": …} if pdfium fails."""
        try:
            return self._answer(request, content)
        except MemoryError:
            raise
        except Exception as error:  # PdfiumError, and failures of the wrapper around pdfium
            return {"error": f"{error}"[:300] or type(error).__name__}, b""

    def _answer(self, request: Mapping[str, Any], content: Any) -> Reply:
        match request["do"]:
            case "open":
                return self._open(content)
            case "close":
                return self._close()
            case "size":
                return {"size": self._opened().get_page_size(request["page"])}, b""
            case "draw":
                return self._draw(request["page"], request["scale"])
            case _:
                return self._text(request["page"])

    def _open(self, content: Any) -> Reply:
        self._close()
        document = self._pdfium.PdfDocument(content)
        self._document, self._content = document, content
        document.init_forms()  # without it the text of filled-in fields is not drawn
        return {"pages": len(document)}, b""

    def _close(self) -> Reply:
        if self._document is not None:
            self._document.close()
        self._document = self._content = None
        return {}, b""

    def _opened(self) -> Any:
        if self._document is None:
            raise ValueError("no document is open")
        return self._document

    def _draw(self, index: int, scale: float) -> Reply:
        with contextlib.closing(self._opened()[index]) as page:
            # memory owned by Python, which lives as long as the buffer
            bitmap = page.render(scale=scale, bitmap_maker=self._pdfium.PdfBitmap.new_foreign)
        if bitmap.mode != "BGR":
            raise ValueError(f"pdfium drew in {bitmap.mode}")
        return {"size": [bitmap.width, bitmap.height], "stride": bitmap.stride}, bitmap.buffer

    def _text(self, index: int) -> Reply:
        with contextlib.closing(self._opened()[index]) as page, contextlib.closing(page.get_textpage()) as text:
            return {"text": str(text.get_text_bounded())}, b""


def main(memory: int) -> None:
    """Answers requests until standard input closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the parent process
    source, target = io.FileIO(0), io.FileIO(os.dup(1), "w")
    os.dup2(2, 1)  # nothing printed may end up among the replies
    try:
        reader = Reader()
    except Exception as error:
        send(target, {"error": f"{error}"})
        return
    requests: queue.SimpleQueue[tuple[dict[str, Any], Any]] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(source, requests), daemon=True).start()
    if not _limit(memory):
        threading.Thread(target=_watch, args=(memory,), daemon=True).start()
    send(target, {})
    with contextlib.suppress(BrokenPipeError):
        while True:
            try:
                send(target, *reader.answer(*requests.get()))
            except MemoryError:
                os._exit(OUT_OF_MEMORY)


def _receive(source: RawFile, requests: queue.SimpleQueue[tuple[dict[str, Any], Any]]) -> None:
    """Queues requests as they arrive; at the end of input it ends the process, whatever it is doing."""
    try:
        while True:
            lengths = bytearray(LENGTHS.size)
            fill(source, lengths)
            size, rest = LENGTHS.unpack(lengths)
            head, body = bytearray(size), (ctypes.c_char * rest)()
            fill(source, head)
            fill(source, body)
            requests.put((json.loads(head), body))
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    finally:
        os._exit(0)


def _limit(memory: int) -> bool:
    """Limits the memory of this process; returns whether the system enforces the limit."""
    try:
        import resource
    except ImportError:  # not on Windows
        return False
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        limit = memory if hard == resource.RLIM_INFINITY else min(memory, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    except (AttributeError, ValueError, OSError):
        return False
    return sys.platform != "darwin"  # macOS accepts the limit but does not enforce it


def _watch(memory: int) -> None:
    while _resident() <= memory:
        time.sleep(POLL_SECONDS)
    os._exit(OUT_OF_MEMORY)


def _resident() -> int:
    """Returns the memory use of this process in bytes: resident, peak or committed, by system; 0 if not reported."""
    if sys.platform == "win32":
        return _resident_on_windows()
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        pass
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _resident_on_windows() -> int:
    """Returns `PagefileUsage` of PROCESS_MEMORY_COUNTERS, which is two 4-byte integers and eight sizes."""
    counters = (ctypes.c_size_t * (8 // ctypes.sizeof(ctypes.c_size_t) + 8))()
    kernel = ctypes.WinDLL("kernel32")  # type: ignore[attr-defined]
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    process = ctypes.c_void_p(kernel.GetCurrentProcess())
    succeeded = kernel.K32GetProcessMemoryInfo(process, ctypes.byref(counters), ctypes.sizeof(counters))
    return int(counters[-2]) if succeeded else 0
