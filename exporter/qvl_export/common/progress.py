"""Interfaces for progress reports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

Report = Callable[[str], None]
"""Receives one line about the current step."""


class Progress(Protocol):
    """Receives the stages of a command; `advance` counts units of work (such as bytes read) out of `total`."""

    def stage(self, text: str, total: int = 0) -> None: ...
    def advance(self, count: int) -> None: ...


class NullProgress:
    """Reports nothing."""

    def stage(self, text: str, total: int = 0) -> None: ...
    def advance(self, count: int) -> None: ...
