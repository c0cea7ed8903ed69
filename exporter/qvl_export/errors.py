"""Errors of the exporter; like those of the runtime, each is one line: what, where, how to fix.

QvlError
└── ExportError
    ├── CheckpointError   weights or their files are damaged, missing, extra or of the wrong shape
    ├── ConfigError       a configuration value is missing, malformed or not supported
    ├── HubError          the checkpoint cannot be downloaded
    └── OutputError       the bundle cannot be written where it was asked for
"""

from __future__ import annotations

from qvl_runtime.errors import QvlError

LONGEST = 1000
"""Characters of a message: names and values in it may be a stranger's."""


class ExportError(QvlError):
    """An export cannot be done."""

    def __init__(self, what: str, *, where: object = None, fix: str = "") -> None:
        super().__init__(printable(what), where=where, fix=printable(fix))


def printable(text: str) -> str:
    """Text without control characters, which terminals would obey, and not too long."""
    shown = text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
    return "".join(char if char.isprintable() or char.isspace() else f"\\x{ord(char):02x}" for char in shown)


class CheckpointError(ExportError):
    """Weights or their files are damaged, missing, extra or of the wrong shape."""


class ConfigError(ExportError):
    """A configuration value is missing, malformed or not supported."""


class HubError(ExportError):
    """The checkpoint cannot be downloaded."""


class OutputError(ExportError):
    """The bundle cannot be written where it was asked for."""
