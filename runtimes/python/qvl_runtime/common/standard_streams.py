"""Standard streams of a command, robust against closed streams, limited encodings and readers that stop reading."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from typing import Any

from ..printable import one_line, printable, printable_json
from .exit_codes import BAD_INPUT


def open_streams() -> None:
    """Opens the null device for every stream the caller closed, so that no other file takes its descriptor.

    Without a standard error `print` would write errors to standard output.
    """
    with contextlib.suppress(OSError):
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(descriptor)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # an answer may hold characters the terminal cannot show


class _Output:
    """The state of standard output."""

    unfinished = False
    """Whether its last line has no end yet."""


def say(text: str) -> None:
    """Prints a line without control characters on standard error; ignores errors, since nobody may be reading.

    If standard output goes to the same terminal or file, its unfinished line is ended first.
    """
    with contextlib.suppress(OSError, ValueError):
        if _Output.unfinished and os.path.sameopenfile(sys.stdout.fileno(), sys.stderr.fileno()):
            print(flush=True)
            _Output.unfinished = False
    with contextlib.suppress(OSError, ValueError):
        print(one_line(text), file=sys.stderr, flush=True)


class OutputError(Exception):
    """Writing to standard output failed; the cause says why."""


def put(text: str, end: str = "\n") -> None:
    """Prints and flushes; raises OutputError on failure, after redirecting the stream so that exit writes nothing."""
    try:
        print(text, end=end, flush=True)
    except OSError as error:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OutputError from error
    _Output.unfinished = not end


def end_line() -> None:
    """Ends the line of standard output that `put` left unfinished, unless a message has ended it."""
    if _Output.unfinished:
        put("")


def show(value: Any) -> None:
    """Prints on standard output: a text without control characters, anything else as JSON."""
    if isinstance(value, str):
        put(printable(value))
    else:
        print_json(value)


def report_output_error(error: OutputError) -> int:
    """Returns the exit code after an output error: 0 if the reader went away, as `head` does, else 2 with a message."""
    if isinstance(error.__cause__, BrokenPipeError):
        return 0
    say(f"error: the output cannot be written: {error.__cause__}")
    return BAD_INPUT


def print_json(value: Any, indent: int | None = None) -> None:
    """Prints JSON: escapes control characters and those its encoding lacks; non-finite numbers become null."""
    text = printable_json(json.dumps(_finite(value), indent=indent, ensure_ascii=False))
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeError:
        text = json.dumps(_finite(value), indent=indent)
    put(text)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and value - value != 0 else value
