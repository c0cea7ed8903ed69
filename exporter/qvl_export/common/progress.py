"""What is told while a command works."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

Report = Callable[[str], None]
"""Takes a line about what is being done."""


class Progress(Protocol):
    """Told what an export is doing; `advance` counts bytes of weights read out of `total`."""

    def stage(self, text: str, total: int = 0) -> None: ...
    def advance(self, count: int) -> None: ...


class Silent:
    """Says nothing."""

    def stage(self, text: str, total: int = 0) -> None: ...
    def advance(self, count: int) -> None: ...
