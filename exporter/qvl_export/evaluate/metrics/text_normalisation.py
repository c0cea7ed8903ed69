"""Normalization of texts before they are compared."""

from __future__ import annotations

import unicodedata


def normal(text: str) -> str:
    """Returns the text in NFC without blanks at its ends."""
    return unicodedata.normalize("NFC", text).strip()


def squeeze(text: str) -> str:
    """Returns the text in NFC, with each run of blanks as one space."""
    return " ".join(normal(text).split())
