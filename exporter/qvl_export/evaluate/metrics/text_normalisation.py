"""How texts are made alike before they are compared."""

from __future__ import annotations

import unicodedata


def normal(text: str) -> str:
    """NFC, without blanks at the ends."""
    return unicodedata.normalize("NFC", text).strip()


def squeeze(text: str) -> str:
    """NFC, runs of blanks as one."""
    return " ".join(normal(text).split())
