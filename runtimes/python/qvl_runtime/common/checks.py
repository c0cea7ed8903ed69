"""Checks numeric options, NumPy's included: converts them to Python numbers or raises PromptError."""

from __future__ import annotations

import math
import numbers
import operator
from typing import Any

from ..errors import PromptError


def whole(name: str, value: Any, least: int, fix: str) -> int:
    """Returns `value` as an int of at least `least`; raises PromptError otherwise, also for a bool."""
    try:
        number = least - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise PromptError(f"{name} is {told(value)}", fix=fix)
    return number


def real(name: str, value: Any, fix: str, least: float = 0.0, most: float = math.inf, *, above: bool = False) -> float:
    """Returns `value` as a finite float from `least` (exclusive if `above`) to `most`; raises PromptError otherwise."""
    try:
        number = float(value) if isinstance(value, numbers.Real) and not isinstance(value, bool) else math.nan
    except OverflowError:  # an integer or fraction beyond the range of floats
        number = math.inf
    if not (math.isfinite(number) and least <= number <= most) or (above and number == least):
        raise PromptError(f"{name} is {told(value)}", fix=fix)
    return number


def told(value: Any) -> str:
    """Returns a value as errors quote it; Python refuses to format integers of thousands of digits."""
    try:
        return f"{value!r:.80}"
    except ValueError:
        return "a number of thousands of digits"


def brief(value: Any, most: int) -> str:
    """Returns the first `most` characters of a value's text."""
    try:
        return str(value)[:most]
    except ValueError:
        return told(value)[:most]
