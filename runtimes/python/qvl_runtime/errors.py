"""Errors a user can act on: each says what is wrong, where, and how to fix it, in one line.

QvlError
├── BundleError    a bundle is missing, damaged, truncated or from the future
├── MediaError     an image, video or PDF cannot be read or is too large
├── PromptError    messages or options the model cannot answer
├── EngineError    the engine failed while running
└── InstallError   a Python package is missing or two of them collide
"""

from __future__ import annotations

from .printable import one_line


class QvlError(Exception):
    """`what` happened, `where` (a path, a field), and a `fix` to try; `str()` is one line that is safe to print."""

    def __init__(self, what: str, *, where: object = None, fix: str = "") -> None:
        self.what, self.where, self.fix = what, where, fix
        place = f"{where}: " if where is not None else ""
        hint = f" ({fix})" if fix else ""
        super().__init__(one_line(f"{place}{what}{hint}"))


class BundleError(QvlError):
    """A bundle is missing, damaged, truncated or from the future."""


class MediaError(QvlError):
    """An image, video or PDF cannot be read or is too large."""


class PromptError(QvlError):
    """Messages or options the model cannot answer."""


class EngineError(QvlError):
    """The engine failed while running, for want of memory mostly."""


class InstallError(QvlError):
    """A Python package is missing, or two of them collide."""


class TruncatedAnswerWarning(UserWarning):
    """An answer ends where neither the model nor its caller wanted it to end."""
