"""Checks numeric options, NumPy's included: converts them to Python numbers or raises PromptError."""

from __future__ import annotations

import math
import numbers
import operator
from typing import Any

from ..errors import PromptError


def check_int(name: str, value: Any, least: int, most: float = math.inf, fix: str = "") -> int:
    """Returns `value` as an int from `least` to `most`; raises PromptError otherwise, also for a bool."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or not least <= number <= most:
        bound = f"<= {most:g}" if number is not None and number > most else f">= {least}"
        raise PromptError(f"{name} must be a whole number {bound}, got {quoted(value)}", fix=fix)
    return number


def check_float(
    name: str, value: Any, least: float = 0.0, most: float = math.inf, *, above: bool = False, fix: str = ""
) -> float:
    """Returns `value` as a finite float from `least` (exclusive if `above`) to `most`; raises PromptError otherwise."""
    try:
        number = float(value) if isinstance(value, numbers.Real) and not isinstance(value, bool) else math.nan
    except OverflowError:  # an integer or fraction beyond the range of floats
        number = math.inf
    if not (math.isfinite(number) and least <= number <= most) or (above and number == least):
        kind = "" if math.isfinite(number) else "a finite number "
        bounds = f"{'>' if above else '>='} {least:g}" + (f" and <= {most:g}" if most < math.inf else "")
        raise PromptError(f"{name} must be {kind}{bounds}, got {quoted(value)}", fix=fix)
    return number


def parse_float(text: str) -> float:
    """Returns the number that a user wrote; raises ValueError, also for `1_0`, which Python reads as 10."""
    if "_" in text:
        raise ValueError(text)
    return float(text)


def quoted(value: Any) -> str:
    """Returns a value as errors quote it; Python refuses to format integers of thousands of digits."""
    try:
        return f"{value!r:.80}"
    except ValueError:
        return "a number of thousands of digits"


def abbreviated(value: Any, length: int) -> str:
    """Returns the first `length` characters of a value's text."""
    try:
        return str(value)[:length]
    except ValueError:
        return quoted(value)[:length]
