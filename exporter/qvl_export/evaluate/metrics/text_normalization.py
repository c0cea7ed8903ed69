"""Normalization of texts before they are compared."""

from __future__ import annotations

import unicodedata


def normalize(text: str) -> str:
    """Returns the text in NFC without whitespace at its ends."""
    return unicodedata.normalize("NFC", text).strip()


def collapse_whitespace(text: str) -> str:
    """Returns the text in NFC, with each run of whitespace as one space."""
    return " ".join(normalize(text).split())
