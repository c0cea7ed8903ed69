"""Checks the values of a dataclass against the annotations of its fields."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from ..errors import ExportError

NAMES = {str: "text", Path: "a path", int: "a whole number", float: "a number", bool: "True or False", NoneType: "None"}
LONGEST = 60
"""Most characters of a wrong value in a message."""


@dataclass(frozen=True)
class Checked:
    """Base of frozen dataclasses whose values must have the annotated types."""

    def __post_init__(self) -> None:
        """Raises ExportError, with the field and what was expected, for a value of another type and for NaN."""
        hints = get_type_hints(type(self))
        for field in fields(self):
            value = getattr(self, field.name)
            if not _fits(value, hints[field.name]):
                expected = f"{field.name} must be {_described(hints[field.name])}"
                raise ExportError(f"{expected}, got {shown(value)}")


def _fits(value: Any, hint: Any) -> bool:
    parts, origin = get_args(hint), get_origin(hint)
    if origin is Sequence:
        return (
            isinstance(value, Sequence) and not isinstance(value, str) and all(_fits(item, parts[0]) for item in value)
        )
    if origin is frozenset:
        return isinstance(value, frozenset) and all(_fits(item, parts[0]) for item in value)
    if parts:  # a union
        return any(_fits(value, part) for part in parts)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, os.PathLike if hint is Path else hint)


def _described(hint: Any) -> str:
    parts, origin = get_args(hint), get_origin(hint)
    if origin in (Sequence, frozenset):
        return f"a {'list' if origin is Sequence else 'frozenset'} of {_described(parts[0])}"
    if parts:
        return " or ".join(map(_described, parts))
    return NAMES.get(hint, f"an instance of {hint.__name__}")


def shown(value: Any) -> str:
    """Returns a wrong value as errors show it, cut to LONGEST characters."""
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
