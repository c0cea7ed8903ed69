"""Scores of answers in JSON: fields of an object, and tool calls."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from .fraction import Fraction
from .text_normalization import collapse_whitespace

PathNumbers = dict[tuple[int, str], int]
"""The number of a JSON path by (number of its parent path, last key); the root is −1."""
_TOOL_CALL = re.compile(r"<tool_call>(.*?)(?:</tool_call>|$)", re.DOTALL)
_FENCE = re.compile(r"^```\w*")


def field_f1(answer: str, truths: Sequence[str]) -> Fraction:
    """Returns (2 · equal fields, fields of both) for the truth with the highest F1.

    Summed over items, it is the micro-averaged F1. An answer that is not JSON has no fields.
    """
    return max((_field_f1(answer, truth) for truth in truths), key=lambda fraction: fraction[0] / fraction[1])


def _field_f1(answer: str, truth: str) -> Fraction:
    numbers: PathNumbers = {}
    given, wanted = fields(answer, numbers), fields(truth, numbers)
    equal = sum(given.get(path) == value for path, value in wanted.items())
    return 2.0 * equal, float(len(given) + len(wanted))


def fields(text: str, numbers: PathNumbers) -> dict[int, str]:
    """Returns the leaves of the JSON object in an answer by path; empty leaves are not fields.

    Paths are numbers from `numbers`, because a hostile answer could repeat a long key before every leaf.
    """
    parsed = _parse(text)
    found: dict[int, str] = {}
    left: list[tuple[int, Any]] = [(-1, parsed)] if isinstance(parsed, dict) else []
    while left:
        path, value = left.pop()
        if isinstance(value, dict | list):
            inner = value.items() if isinstance(value, dict) else enumerate(value)
            left += [(numbers.setdefault((path, str(key)), len(numbers)), item) for key, item in inner]
        elif value not in (None, ""):
            found[path] = collapse_whitespace(str(value))
    return found


def tool_call_match(answer: str, truths: Sequence[str]) -> Fraction:
    """Returns (1, 1) if names, arguments and order of the calls equal those of any truth, else (0, 1)."""
    given = tool_calls(answer)
    return float(given is not None and any(given == tool_calls(truth) for truth in truths)), 1.0


def tool_calls(text: str) -> list[tuple[str, Any]] | None:
    """Returns name and arguments of every call, in order; None if a call is not JSON with both."""
    bodies = _TOOL_CALL.findall(text) or [text]
    calls = []
    for body in bodies:
        call = _parse(body)
        if not isinstance(call, dict) or "name" not in call or "arguments" not in call:
            return None
        calls.append((str(call["name"]), call["arguments"]))
    return calls


def _parse(text: str) -> Any:
    """Returns the JSON value of an answer, also from within a code fence or a sentence; None if there is none."""
    bare = _FENCE.sub("", text.strip(), count=1).removesuffix("```")
    try:
        return json.loads(bare)
    except (ValueError, RecursionError):
        pass
    try:
        return json.loads(bare[bare.index("{") : bare.rindex("}") + 1])
    except (ValueError, RecursionError):
        return None
