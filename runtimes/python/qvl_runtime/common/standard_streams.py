"""Standard input, output and error of a command, whatever the caller closed, cannot show or stops reading."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from typing import Any

from ..printable import one_line, printable, printable_json


def open_streams() -> None:
    """Put the null device where the caller closed a stream, so that no other file takes its place.

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
            stream.reconfigure(errors="backslashreplace")  # an answer may hold what the terminal cannot show


def say(text: str) -> None:
    """A line on standard error, without control characters; nobody may be reading it."""
    with contextlib.suppress(OSError, ValueError):
        print(one_line(text), file=sys.stderr, flush=True)


class OutputError(Exception):
    """Standard output does not take what is written to it; the cause says why."""


def put(text: str, end: str = "\n") -> None:
    """Print at once; raises OutputError, after which the end of the process tries to write nothing more."""
    try:
        print(text, end=end, flush=True)
    except OSError as error:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OutputError from error


def show(value: Any) -> None:
    """A text without control characters, or anything else as JSON, on standard output."""
    if isinstance(value, str):
        put(printable(value))
    else:
        print_json(value)


def told(error: OutputError) -> int:
    """The exit code after a broken standard output; it is an error unless the reader went away, as `head` does."""
    if isinstance(error.__cause__, BrokenPipeError):
        return 0
    say(f"error: the output cannot be written: {error.__cause__}")
    return 2


def print_json(value: Any, indent: int | None = None) -> None:
    """JSON on standard output: escapes for controls and what its encoding lacks, null for what is no number."""
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
