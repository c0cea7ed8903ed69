"""The order in which people count files: `page2` before `page10`."""

from __future__ import annotations

import re


def natural_order(name: str) -> tuple[list[tuple[int, str]], str]:
    """Returns a sort key that puts `frame2` before `frame10`."""
    pieces = re.findall(r"[0-9]+|[^0-9]+", name)
    return [(int(piece), "") if piece.isdecimal() else (-1, piece.casefold()) for piece in pieces], name
