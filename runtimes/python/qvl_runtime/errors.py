"""Errors a user can act on: each says in one line what is wrong, where, and how to fix it.

QvlError
├── BundleError    a bundle is missing, damaged, truncated or of a newer schema version
├── MediaError     an image, video or PDF cannot be read or is too large
├── PromptError    messages or options that the model cannot process
├── EngineError    the engine failed while running
├── InstallError   a Python package is missing, or two packages conflict
└── Interrupted    work was given up, because it was late or nobody waits for its result
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
    """A bundle is missing, damaged, truncated or of a newer schema version."""


class MediaError(QvlError):
    """An image, video or PDF cannot be read or is too large."""


class PromptError(QvlError):
    """Messages or options that the model cannot process."""


class EngineError(QvlError):
    """The engine failed while running, most often because it ran out of memory."""


class InstallError(QvlError):
    """A Python package is missing, or two packages conflict."""


class Interrupted(QvlError):
    """Work was given up between two steps: it was `late`, or nobody waits for its result any more."""

    def __init__(self, what: str, *, late: bool = True) -> None:
        super().__init__(what)
        self.late = late


class SlowProductsWarning(UserWarning):
    """A bundle's int8 products are slow on this processor, and another export would not be."""


class TruncatedAnswerWarning(UserWarning):
    """An answer was cut off although neither the model nor the caller ended it there."""
