"""Parses JSON of untrusted files, in any Unicode encoding."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any


def parse(raw: bytes, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Returns the value of a UTF-8, UTF-16 or UTF-32 text, with or without a byte order mark.

    `pairs` builds objects. Raises ValueError, also for text that cannot be encoded (lone surrogates), or
    RecursionError.
    """
    text = raw.decode(json.detect_encoding(raw))
    value = json.loads(text, object_pairs_hook=pairs)
    if "\\ud" in text.lower():  # perhaps a lone surrogate
        json.dumps(value, ensure_ascii=False).encode()
    return value
