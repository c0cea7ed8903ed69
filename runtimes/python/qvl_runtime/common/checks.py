"""Options that are numbers, NumPy's too: taken as Python's, or refused with PromptError."""

from __future__ import annotations

import math
import numbers
import operator
from typing import Any

from ..errors import PromptError


def whole(name: str, value: Any, least: int, fix: str) -> int:
    """An int of at least `least`; a bool is not one."""
    try:
        number = least - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise PromptError(f"{name} is {told(value)}", fix=fix)
    return number


def real(name: str, value: Any, fix: str, least: float = 0.0, most: float = math.inf, *, above: bool = False) -> float:
    """A finite float from `least`, or only `above` it, to `most`; a bool is not one."""
    try:
        number = float(value) if isinstance(value, numbers.Real) and not isinstance(value, bool) else math.nan
    except OverflowError:  # a whole number or a fraction beyond all floats
        number = math.inf
    if not (math.isfinite(number) and least <= number <= most) or (above and number == least):
        raise PromptError(f"{name} is {told(value)}", fix=fix)
    return number


def told(value: Any) -> str:
    """A value as an error quotes it; Python refuses to write whole numbers of thousands of digits."""
    try:
        return f"{value!r:.80}"
    except ValueError:
        return "a number of thousands of digits"


def brief(value: Any, most: int) -> str:
    """The beginning of a value as a text."""
    try:
        return str(value)[:most]
    except ValueError:
        return told(value)[:most]
