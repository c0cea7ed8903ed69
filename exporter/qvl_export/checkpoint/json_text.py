"""JSON of files that strangers made, in whatever encoding their editors chose."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any


def parse(raw: bytes, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """The value of a UTF-8, UTF-16 or UTF-32 text, with or without a byte order mark.

    `pairs` makes objects. Raises ValueError, for text that no file can be written with too, or RecursionError.
    """
    text = raw.decode(json.detect_encoding(raw))
    value = json.loads(text, object_pairs_hook=pairs)
    if "\\ud" in text.lower():  # half of a character, perhaps
        json.dumps(value, ensure_ascii=False).encode()
    return value
