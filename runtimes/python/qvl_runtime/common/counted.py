"""Counts in a sentence."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """Returns `1 page`, `2 pages` or `1,200 pages` for the noun `page`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
