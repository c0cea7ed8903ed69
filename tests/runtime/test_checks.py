"""Numeric options: any numeric type is converted, and an error says which values are allowed."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from qvl_runtime.common.checks import abbreviated, check_float, check_int, quoted
from qvl_runtime.errors import PromptError


@pytest.mark.parametrize("value", [3, np.int8(3), np.uint64(3)])
def test_integers_of_any_type(value: Any) -> None:
    assert type(check_int("n", value, 3, 3)) is int and check_int("n", value, 0) == 3


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (2, "n must be a whole number >= 3, got 2 (why)"),
        (6, "n must be a whole number <= 5, got 6 (why)"),
        (4.0, "n must be a whole number >= 3, got 4.0 (why)"),
        (True, "n must be a whole number >= 3, got True (why)"),
        ("4", "n must be a whole number >= 3, got '4' (why)"),
    ],
)
def test_what_is_not_an_integer_in_range(value: Any, message: str) -> None:
    with pytest.raises(PromptError) as caught:
        check_int("n", value, 3, 5, fix="why")
    assert str(caught.value) == message


@pytest.mark.parametrize("value", [1, 1.0, np.float16(1), Fraction(1)])
def test_floats_of_any_type(value: Any) -> None:
    assert type(check_float("x", value, 1, 1)) is float and check_float("x", value, above=True) == 1


@pytest.mark.parametrize(
    ("value", "options", "message"),
    [
        (-1.0, {}, "x must be >= 0, got -1.0"),
        (0, {"above": True}, "x must be > 0, got 0"),
        (1.5, {"most": 1}, "x must be >= 0 and <= 1, got 1.5"),
        (float("nan"), {}, "x must be a finite number >= 0, got nan"),
        (10**400, {"most": 1}, "x must be a finite number >= 0 and <= 1, got 1000"),
        (False, {}, "x must be a finite number >= 0, got False"),
        ("1", {}, "x must be a finite number >= 0, got '1'"),
    ],
)
def test_what_is_not_a_float_in_range(value: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(PromptError) as caught:
        check_float("x", value, **options)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_long_values_are_shortened() -> None:
    assert quoted("a" * 100) == "'" + "a" * 79
    assert quoted(10**5000) == "a number of thousands of digits"
    assert (abbreviated("abc", 2), abbreviated(10**5000, 8)) == ("ab", "a number")
