"""Errors of the exporter; like those of the runtime, each is one line: what is wrong, where, and how to fix it.

QvlError
└── ExportError
    ├── CheckpointError   weights or their files are damaged, missing, extra or of the wrong shape
    ├── ConfigError       a configuration value is missing, malformed or not supported
    ├── HubError          the checkpoint cannot be downloaded
    ├── OutputError       the output cannot be written to the given path
    └── StoppedError      work was ended from outside; another run resumes it
"""

from __future__ import annotations

from qvl_runtime.errors import QvlError
from qvl_runtime.printable import one_line

LONGEST = 1000
"""Most characters of a message: names and values in it may be untrusted."""


class ExportError(QvlError):
    """An export is not possible."""

    def __init__(self, what: str, *, where: object = None, fix: str = "") -> None:
        super().__init__(shortened(what), where=where, fix=shortened(fix))


def shortened(text: str) -> str:
    """Returns the text on one line, safe to print and not too long."""
    return one_line(text if len(text) <= LONGEST else f"{text[:LONGEST]}…")


class CheckpointError(ExportError):
    """Weights or their files are damaged, missing, extra or of the wrong shape."""


class ConfigError(ExportError):
    """A configuration value is missing, malformed or not supported."""


class HubError(ExportError):
    """The checkpoint cannot be downloaded."""


class OutputError(ExportError):
    """The output cannot be written to the given path."""


class StoppedError(ExportError):
    """Work was ended from outside, not because of its input; another run resumes it."""


def is_bad_input(error: BaseException) -> bool:
    """Whether the input caused the error, so that the same command would fail again."""
    return isinstance(error, QvlError) and not isinstance(error, OutputError | StoppedError)
