"""Errors of the exporter; like those of the runtime, each is one line: what, where, how to fix.

QvlError
└── ExportError
    ├── CheckpointError   weights or their files are damaged, missing, extra or of the wrong shape
    ├── ConfigError       a configuration value is missing, malformed or not supported
    ├── HubError          the checkpoint cannot be downloaded
    ├── OutputError       the bundle cannot be written where it was asked for
    └── StoppedError      work was ended from outside; run again, it goes on where it stopped
"""

from __future__ import annotations

from qvl_runtime.errors import QvlError
from qvl_runtime.printable import one_line

LONGEST = 1000
"""Characters of a message: names and values in it may be a stranger's."""


class ExportError(QvlError):
    """An export cannot be done."""

    def __init__(self, what: str, *, where: object = None, fix: str = "") -> None:
        super().__init__(shortened(what), where=where, fix=shortened(fix))


def shortened(text: str) -> str:
    """Text on one line that is safe to print, and not too long."""
    return one_line(text if len(text) <= LONGEST else f"{text[:LONGEST]}…")


class CheckpointError(ExportError):
    """Weights or their files are damaged, missing, extra or of the wrong shape."""


class ConfigError(ExportError):
    """A configuration value is missing, malformed or not supported."""


class HubError(ExportError):
    """The checkpoint cannot be downloaded."""


class OutputError(ExportError):
    """The bundle cannot be written where it was asked for."""


class StoppedError(ExportError):
    """Work was ended from outside, by no fault of what was given; run again, it goes on where it stopped."""


def is_bad_input(error: BaseException) -> bool:
    """Whether what was given is to blame, so that the same would fail again."""
    return isinstance(error, QvlError) and not isinstance(error, OutputError | StoppedError)
