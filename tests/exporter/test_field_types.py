"""Values of a dataclass must have the types of its fields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from qvl_export.common.field_types import Checked
from qvl_export.errors import ExportError


@dataclass(frozen=True)
class Options(Checked):
    count: int = 1
    rate: float = 1.0
    name: str | None = None
    paths: Sequence[Path] = ()
    names: frozenset[str] = frozenset()
    on: bool = False


def test_values_that_fit_are_taken() -> None:
    Options(2, 3, "x", [Path("a"), PurePosixPath("b")], frozenset({"y"}), True)
    assert Options().name is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"count": True}, "count must be a whole number, got True"),
        ({"count": 1.0}, "count must be a whole number, got 1.0"),
        ({"rate": float("nan")}, "rate must be a number, got nan"),
        ({"rate": True}, "rate must be a number, got True"),
        ({"name": b"x"}, "name must be text or None, got b'x'"),
        ({"paths": "ab"}, "paths must be a list of a path, got 'ab'"),
        ({"paths": ["a"]}, "paths must be a list of a path, got ['a']"),
        ({"names": {"x"}}, "names must be a frozenset of text, got {'x'}"),
        ({"on": 1}, "on must be True or False, got 1"),
    ],
)
def test_other_values_are_refused_with_their_field(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ExportError) as caught:
        Options(**given)
    assert str(caught.value) == message


def test_long_values_are_shortened() -> None:
    with pytest.raises(ExportError, match=r"got 'x{59}…$"):
        Options(count="x" * 500)  # type: ignore[arg-type]
